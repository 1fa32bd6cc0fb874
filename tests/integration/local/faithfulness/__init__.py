"""Whether the embedded grid answers as the real services did when they were listened to."""
