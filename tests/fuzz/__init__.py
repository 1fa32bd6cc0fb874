"""Hostile messages, and programs that look for more of them (``make fuzz``)."""
