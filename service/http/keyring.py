"""The key ring of a service: the configured key, and those of the data directory, read again when their file changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from backbone.errors import StorageFailed
from service.errors import KeysInvalid, SettingsInvalid
from service.http.keys import ANONYMOUS_NAME, CONFIGURED, KEYS_NAME, Key, digest_of, read_keys
from service.settings import Settings

ANONYMOUS: Final = Key(ANONYMOUS_NAME, "write", "", 0.0)  # who asks where no key is needed

log = structlog.get_logger("service")


class Keyring:
    """Looks keys up by their hash: how long that takes says nothing about any key. Used by the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        """Read the keys.

        Raises:
            SettingsInvalid: there is none, and no permission to go without, or that permission on an address others can reach.
            KeysInvalid, StorageFailed: the file of keys cannot be read.
        """
        self._data = settings.data
        key = settings.key()
        self._configured = None if key is None else Key(CONFIGURED, "write", digest_of(key), 0.0)
        self._version = _version_of(self._data / KEYS_NAME)
        self._keys = self._by_hash(read_keys(self._data))
        self._open = not self._keys
        if self._open:
            _check_anonymous(settings)

    def find(self, presented: list[bytes]) -> Key | None:
        """Return the first of the presented keys that is valid now, ANONYMOUS where none is needed, or None."""
        self._refresh()
        if self._open and not self._keys:
            return ANONYMOUS
        for each in presented:
            key = self._keys.get(digest_of(each))
            if key is not None and not key.expired():
                return key
        return None

    def _by_hash(self, keys: list[Key]) -> dict[str, Key]:
        return {key.sha256: key for key in [*keys, *([self._configured] if self._configured else [])]}

    def _refresh(self) -> None:
        """Read the file again where it is another one. What cannot be read changes nothing, and is said once."""
        version = _version_of(self._data / KEYS_NAME)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = self._by_hash(read_keys(self._data))
        except (KeysInvalid, StorageFailed) as error:
            log.warning("keys_not_read", detail=type(error).__name__)
        else:
            log.info("keys_read", keys=len(self._keys))


def _version_of(path: Path) -> tuple[int, int, int] | None:
    """Return the version of a file, None without one: it is replaced as a whole, so its inode changes."""
    try:
        found = os.stat(path)  # noqa: PTH116 - at every request: half the time of Path.stat
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _check_anonymous(settings: Settings) -> None:
    if not settings.allow_anonymous:
        raise SettingsInvalid(
            "no API key is configured; set DINODEX_API_KEY or DINODEX_API_KEY_FILE, make one with `dinodex keys add`, "
            "or set DINODEX_ALLOW_ANONYMOUS=1 to serve this machine alone without one."
        )
    if not settings.is_loopback():
        raise SettingsInvalid(
            f"without an API key the service listens on a loopback address only, and {settings.host} is none; "
            "set DINODEX_API_KEY, or listen on 127.0.0.1."
        )
