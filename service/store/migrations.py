"""Migrations of the schema: its history, one numbered step after the other, each applied once and in one transaction.

A step that has been released is never edited; a change is a new step at the end. `user_version` counts the steps applied.
"""

import sqlite3
import zlib

from service.errors import LibraryInvalid
from service.store.filter_index import FILL
from service.store.point_rows import checksum

APPLICATION_ID = 0x44494E4F  # "DINO": tells our file from any other SQLite database

POINTS = (
    # `collection` is a number that is never used again, so that what a dropped collection leaves behind stays nobody's.
    """CREATE TABLE collections (
        collection INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        fingerprint TEXT NOT NULL,
        dimension INTEGER NOT NULL,
        keep TEXT NOT NULL,
        created_at REAL NOT NULL
    )""",
    # A row names one vector for ever: new content under an old id is a new row. Derived indexes rely on it.
    """CREATE TABLE points (
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        collection INTEGER NOT NULL,
        id TEXT NOT NULL,
        content_hash BLOB NOT NULL,
        label TEXT,
        payload TEXT,
        source_path TEXT,
        source_size INTEGER,
        source_mtime_ns INTEGER
    )""",
    "CREATE UNIQUE INDEX points_by_id ON points (collection, id)",
    "CREATE INDEX points_by_label ON points (collection, label) WHERE label IS NOT NULL",
    # Apart from `points`, so that filters and listings read small rows. float32, little-endian, unit length.
    "CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL, crc32 INTEGER NOT NULL)",
    "CREATE TABLE pictures (row INTEGER PRIMARY KEY, picture BLOB NOT NULL)",
    # Counts the commits, so that a reader can tell which state of the derived index belongs to its snapshot.
    "CREATE TABLE clock (tick INTEGER NOT NULL)",
    "INSERT INTO clock VALUES (0)",
)

CLUSTERINGS = (
    # Written in several commits; `finished` says whether all of it is there.
    """CREATE TABLE clusterings (
        clustering INTEGER PRIMARY KEY AUTOINCREMENT,
        collection INTEGER NOT NULL,
        method TEXT NOT NULL,
        seed INTEGER NOT NULL,
        points INTEGER NOT NULL,
        created_at REAL NOT NULL,
        finished INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE clusters (
        clustering INTEGER NOT NULL,
        cluster INTEGER NOT NULL,
        size INTEGER NOT NULL,
        cohesion REAL NOT NULL,
        labels TEXT NOT NULL,
        centroid BLOB NOT NULL,
        name TEXT,
        PRIMARY KEY (clustering, cluster)
    ) WITHOUT ROWID""",
    # In the order in which members are browsed: nearest to the centroid first. distance = 1 - cosine.
    """CREATE TABLE members (
        clustering INTEGER NOT NULL,
        cluster INTEGER NOT NULL,
        distance REAL NOT NULL,
        row INTEGER NOT NULL,
        PRIMARY KEY (clustering, cluster, distance, row)
    ) WITHOUT ROWID""",
)

JOBS = (
    """CREATE TABLE jobs (
        job TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        progress REAL NOT NULL,
        result TEXT,
        error TEXT,
        created_at REAL NOT NULL
    ) WITHOUT ROWID""",
)

FIELDS = (
    "CREATE TABLE field_names (key INTEGER PRIMARY KEY, collection INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE (collection, name))",
    # `value` has no type, so that SQLite keeps and compares each as what it is.
    "CREATE TABLE fields (key INTEGER, value, row INTEGER, PRIMARY KEY (key, value, row)) WITHOUT ROWID",
    *FILL,
)

CHECKSUMS = (
    "ALTER TABLE points ADD COLUMN crc32 INTEGER NOT NULL DEFAULT 0",
    "UPDATE points SET crc32 = checksum(row, collection, id, content_hash, label, payload, source_path, source_size, source_mtime_ns)",
    # NULL for a picture from before: to read and write all of them again could take hours and twice the space.
    "ALTER TABLE pictures ADD COLUMN crc32 INTEGER",
)

IDENTITY = (
    # Drawn anew by a restore. What is derived and kept beside the library remembers it, and so fits no other state of it.
    "CREATE TABLE identity (epoch BLOB NOT NULL)",
    "INSERT INTO identity VALUES (randomblob(16))",
)

TALLIES = (
    # A clustering follows its collection: points join on arrival (`service/analysis/members.py`), and the triggers below let them go.
    # What was there before keeps to its members; noise is cluster -1. `reach` is the least cosine to the centroid of a member.
    "DELETE FROM members WHERE row NOT IN (SELECT row FROM points)",
    "CREATE INDEX members_by_row ON members (row, clustering)",
    "ALTER TABLE clusterings ADD COLUMN parameters TEXT NOT NULL DEFAULT '{}'",
    # How many members of a cluster bear a label ('' for none), and the sum of their cosines to the centroid. Apart from
    # `clusters`, whose centroids make each row a page: every put changes some.
    """CREATE TABLE tallies (
        clustering INTEGER NOT NULL,
        cluster INTEGER NOT NULL,
        label TEXT NOT NULL,
        points INTEGER NOT NULL,
        similarity REAL NOT NULL,
        PRIMARY KEY (clustering, cluster, label)
    ) WITHOUT ROWID""",
    "INSERT INTO tallies SELECT m.clustering, m.cluster, ifnull(p.label, ''), count(*), sum(1 - m.distance)"
    " FROM members AS m JOIN points AS p ON p.row = m.row GROUP BY 1, 2, 3",
    "ALTER TABLE clusters ADD COLUMN reach REAL NOT NULL DEFAULT -1",
    "ALTER TABLE clusters DROP COLUMN size",
    "ALTER TABLE clusters DROP COLUMN cohesion",
    "ALTER TABLE clusters DROP COLUMN labels",
    # Triggers, because a point's old label is known only here, and so that no way to delete or relabel it can pass them by.
    """CREATE TRIGGER members_leave BEFORE DELETE ON points WHEN EXISTS (SELECT 1 FROM members WHERE row = OLD.row) BEGIN
        UPDATE tallies SET points = points - 1, similarity = similarity - (1 - m.distance) FROM members AS m
        WHERE m.row = OLD.row AND tallies.clustering = m.clustering AND tallies.cluster = m.cluster
        AND tallies.label = ifnull(OLD.label, '');
        DELETE FROM members WHERE row = OLD.row;
    END""",
    """CREATE TRIGGER members_relabelled AFTER UPDATE OF label ON points
    WHEN OLD.label IS NOT NEW.label AND EXISTS (SELECT 1 FROM members WHERE row = OLD.row) BEGIN
        UPDATE tallies SET points = points - 1, similarity = similarity - (1 - m.distance) FROM members AS m
        WHERE m.row = OLD.row AND tallies.clustering = m.clustering AND tallies.cluster = m.cluster
        AND tallies.label = ifnull(OLD.label, '');
        INSERT INTO tallies SELECT clustering, cluster, ifnull(NEW.label, ''), 1, 1 - distance FROM members WHERE row = OLD.row
        ON CONFLICT DO UPDATE SET points = points + 1, similarity = similarity + excluded.similarity;
    END""",
)

_SEALED = "crc32(CAST(type || tbl_name || sql AS BLOB))"  # as bytes, for damaged text may be no text
# The end of every step from here on.
SEAL = (
    "DELETE FROM sealed",
    f"INSERT INTO sealed SELECT name, {_SEALED} FROM sqlite_schema WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'",  # noqa: S608
)

PICTURED = (
    # So that a picture that got lost is not taken for none.
    "ALTER TABLE points ADD COLUMN pictured INTEGER NOT NULL DEFAULT 0",
    "UPDATE points SET pictured = 1, crc32 = checksum(row, collection, id, content_hash, label, payload, source_path, source_size,"
    " source_mtime_ns, 1) WHERE row IN (SELECT row FROM pictures)",
    # Checksums of the schema itself: with a bit of its text flipped, SQLite would read other columns.
    "CREATE TABLE sealed (name TEXT PRIMARY KEY, crc32 INTEGER NOT NULL) WITHOUT ROWID",
    *SEAL,
)

# Points say since then whether their picture has a checksum (`service/store/point_rows.py`), which an older dinodex takes for damage.
SUMMED = SEAL

MOUNTED = (
    # Whether a file lay on another file system than its source. NULL for points from before, whose checksums stay as they are.
    "ALTER TABLE points ADD COLUMN source_mounted INTEGER",
    *SEAL,
)

MIGRATIONS = (POINTS, CLUSTERINGS, JOBS, FIELDS, CHECKSUMS, IDENTITY, TALLIES, PICTURED, SUMMED, MOUNTED)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest step. Raises LibraryInvalid for a database that is not ours or is newer."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if application != APPLICATION_ID and not empty:
        raise LibraryInvalid("the data directory holds a database of another program; name another directory.")
    if version > len(MIGRATIONS):
        raise LibraryInvalid(
            f"the library has schema {version} and this dinodex knows up to {len(MIGRATIONS)}; use a newer dinodex."
        )
    connection.create_function("checksum", -1, checksum, deterministic=True)
    connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {number}")  # inside the transaction: step and number go together
        connection.execute("COMMIT")


def check_schema(connection: sqlite3.Connection) -> None:
    """Raise LibraryInvalid where the schema is not what the steps left. What others added to it is theirs."""
    changed = connection.execute(
        f"SELECT name FROM sealed WHERE crc32 IS NOT (SELECT {_SEALED} FROM sqlite_schema AS s WHERE s.name = sealed.name)"  # noqa: S608
    ).fetchone()
    if changed is not None:
        raise LibraryInvalid(f"the library's schema is damaged ({changed[0]}); restore a backup.")
