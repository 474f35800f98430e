"""Randomness as a function: every draw comes from a seed that is computed from what it is for, never from what was drawn before it.

So a run that stops and goes on, or that has other workers, draws the same: the state of the generators need not be saved.
"""

from __future__ import annotations

import hashlib


def seed_of(purpose: str, *numbers: int) -> int:
    """Return a seed in [0, 2^63) for `purpose` (`order`, `view`, `mask`, `step` ...) at the given coordinates.

    Equal arguments give equal seeds on every machine; a change of any argument gives an unrelated one.
    """
    text = ":".join([purpose, *map(str, numbers)])
    data = text.encode(errors="surrogatepass")  # a purpose may name a file, and a file's name need not be UTF-8
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1
