"""What the embedded grid notes about the files of its cache."""

from __future__ import annotations

from airflow_provider_panda.local.store.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS cache_files (
    name TEXT PRIMARY KEY, owner TEXT NOT NULL, size INTEGER NOT NULL, checksum INTEGER NOT NULL, touched REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS cache_content ON cache_files(size, checksum);
"""


class FileTable:
    """The table ``cache_files``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def record(self, name: str, owner: str, size: int, checksum: int, now: float) -> None:
        """Note a file of the cache."""
        self._db.write("INSERT OR REPLACE INTO cache_files VALUES (?, ?, ?, ?, ?)", (name, owner, size, checksum, now))

    def touch(self, name: str, now: float) -> bool:
        """Note that a file is still needed; False if there is none of this name."""
        return self._db.write("UPDATE cache_files SET touched = ? WHERE name = ?", (now, name)).rowcount > 0

    def forget(self, name: str) -> None:
        """Drop the note of a file."""
        self._db.write("DELETE FROM cache_files WHERE name = ?", (name,))

    def find(self, owner: str, size: int, checksum: int) -> str | None:
        """Return the newest file of a user with this size and checksum, or None."""
        row = self._db.read(
            "SELECT name FROM cache_files WHERE size = ? AND checksum = ? AND owner = ? ORDER BY touched DESC LIMIT 1",
            (size, checksum, owner),
        ).fetchone()
        return row[0] if row else None

    def stale(self, before: float) -> list[str]:
        """Return the files that nobody touched since a time."""
        return [r[0] for r in self._db.read("SELECT name FROM cache_files WHERE touched < ?", (before,))]
