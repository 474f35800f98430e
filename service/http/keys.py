"""API keys of a data directory: who may ask, as hashes in a small file that `dinodex keys` writes and a running service reads again.

A key is 256 random bits, so nobody finds it from its SHA-256 by trying; a slow hash is for what people think up. It is shown once, when
it is made. Two keys overlap for as long as a rotation takes: add the new one, change over, revoke the old one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from backbone.durable import PRIVATE_FILE, PRIVATE_FOLDER, make_directory, write_file
from backbone.errors import StorageFailed
from service.errors import InvalidName, KeyConflict, KeyMissing, KeysInvalid

Scope = Literal["read", "write"]

KEYS_NAME: Final = "keys.json"
MAX_NAME_CHARS: Final = 64  # it stands in every line of the log
CONFIGURED: Final = "configured"  # the name of the key of the settings, in the log
ANONYMOUS_NAME: Final = "anonymous"  # of who asks where no key is needed
_LOCK_NAME: Final = ".keys.lock"  # not that of the directory, which the service holds
_PREFIX: Final = "dinodex_"  # so that people, and scanners of repositories, know what they found
_FORMAT: Final = 1
_DAY_S: Final = 86_400


@dataclass(frozen=True)
class Key:
    """The record of a key: everything that is kept of it."""

    name: str  # who or what it is for
    scope: Scope
    sha256: str
    created_at: float  # seconds since 1970
    expires_at: float | None = None

    def expired(self) -> bool:
        """Say whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()


def digest_of(key: bytes) -> str:
    """Return the hash that is kept of a key."""
    return hashlib.sha256(key).hexdigest()


def add_key(data: Path, name: str, scope: Scope, expires_days: float | None = None) -> tuple[Key, str]:
    """Make a key for `data`, durably; return what is kept of it, and the key itself, which nobody can show again.

    Raises:
        InvalidName: not 1 to 64 printable characters, or a name of the service's own.
        KeyConflict: the name is taken.
        KeysInvalid, StorageFailed: the file cannot be read or written.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable() or name != name.strip():
        raise InvalidName(f"a key's name is 1 to {MAX_NAME_CHARS} printable characters; choose another.")
    if name in (CONFIGURED, ANONYMOUS_NAME):  # they would share their rate, and nobody could tell them apart in the log
        raise InvalidName(f"the name {name!r} is what the service calls a caller of its own; choose another.")
    with _locked_keys(data, create=True) as keys:
        if name in keys:
            raise KeyConflict(f"there is a key named {name!r}; choose another name, or revoke it first.")
        now = time.time()
        secret = _PREFIX + secrets.token_urlsafe(32)
        expires_at = None if expires_days is None else now + expires_days * _DAY_S
        keys[name] = key = Key(name, scope, digest_of(secret.encode()), now, expires_at)
    return key, secret


def revoke_key(data: Path, name: str) -> None:
    """Take a key away, durably. Raises KeyMissing, KeysInvalid, StorageFailed."""
    with _locked_keys(data) as keys:
        if keys.pop(name, None) is None:
            raise KeyMissing(f"there is no key named {name!r}; `dinodex keys list` shows them.")


def read_keys(data: Path) -> list[Key]:
    """Return the keys of a data directory by name, the expired ones too. Raises KeysInvalid, StorageFailed."""
    path = data / KEYS_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read ({error.strerror}); check its owner.") from error
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise KeysInvalid(f"{path} is damaged or of another version; delete it and add the keys anew.") from error


def _parsed(held: dict[str, Any]) -> list[Key]:
    """Return what a file holds. Raises ValueError, TypeError or KeyError where it holds something else."""
    keys = [Key(**each) for each in held["keys"]]
    for key in keys:
        fine = isinstance(key.name, str) and key.scope in ("read", "write")
        if not fine or len(bytes.fromhex(key.sha256)) != 32 or not isinstance(key.expires_at, (int, float, type(None))):
            raise ValueError("not a key")
    if held["format"] != _FORMAT:
        raise ValueError("another format")
    return keys


@contextmanager
def _locked_keys(data: Path, create: bool = False) -> Iterator[dict[str, Key]]:
    """Yield the keys by name, alone; write what is left of them. `create`: make the directory where it is missing."""
    try:
        if create:
            make_directory(data, PRIVATE_FOLDER)
        descriptor = os.open(data / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise StorageFailed(f"{data} cannot be written ({error.strerror}); check --data.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        keys = {key.name: key for key in read_keys(data)}
        before = dict(keys)
        yield keys
        if keys != before:
            held = {"format": _FORMAT, "keys": [asdict(keys[name]) for name in sorted(keys)]}
            write_file(data / KEYS_NAME, json.dumps(held, indent=2).encode(), mode=PRIVATE_FILE)
    finally:
        os.close(descriptor)
