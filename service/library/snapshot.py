"""The snapshot of a collection: records and index as one commit left them."""

from __future__ import annotations

from dataclasses import dataclass
from sqlite3 import Connection

from service.index.vector_index import View


@dataclass(frozen=True)
class Snapshot:
    """A connection that reads the records, the index of the same commit, and how many writes the collection had by then."""

    connection: Connection
    view: View
    version: int
