"""The secrets that users keep on the embedded grid."""

from __future__ import annotations

from airflow_provider_panda.local.store.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS secrets (
    owner TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (owner, key)
);
"""


class SecretTable:
    """The table ``secrets``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def set(self, owner: str, key: str | None, value: str | None) -> None:
        """Keep a user secret; no value deletes it, no key deletes all of the user's."""
        if key is None:
            self._db.write("DELETE FROM secrets WHERE owner = ?", (owner,))
        elif value is None:
            self._db.write("DELETE FROM secrets WHERE owner = ? AND key = ?", (owner, key))
        else:
            self._db.write("INSERT OR REPLACE INTO secrets (owner, key, value) VALUES (?, ?, ?)", (owner, key, value))

    def of(self, owner: str) -> dict[str, str]:
        """Return the secrets of a user."""
        return dict(self._db.read("SELECT key, value FROM secrets WHERE owner = ?", (owner,)).fetchall())
