from __future__ import annotations

from service.library.versioned_cache import VersionedCache


def test_a_value_is_kept_with_the_version_that_it_was_computed_from() -> None:
    cache: VersionedCache[str, list[int]] = VersionedCache(2)
    assert cache.get("a") is None
    cache.put("a", 0, [1])
    assert cache.get("a") == (0, [1])
    cache.put("a", 3, [2])
    assert cache.get("a") == (3, [2])


def test_a_reader_of_an_older_snapshot_does_not_replace_a_newer_value() -> None:
    cache: VersionedCache[str, str] = VersionedCache(2)
    cache.put("a", 5, "new")
    cache.put("a", 4, "old")
    assert cache.get("a") == (5, "new")
    cache.put("a", 5, "again")
    assert cache.get("a") == (5, "again")


def test_beyond_the_bound_the_key_that_was_not_used_for_longest_goes() -> None:
    cache: VersionedCache[str, int] = VersionedCache(3)
    for number, key in enumerate("abc"):
        cache.put(key, 0, number)
    cache.get("a")
    cache.put("b", 0, 1)
    cache.put("d", 0, 3)
    assert [key for key in "abcd" if cache.get(key) is None] == ["c"]
    cache.put("e", 0, 4)
    assert [key for key in "abde" if cache.get(key) is None] == ["a"]


def test_none_is_a_key_and_a_value() -> None:
    cache: VersionedCache[str | None, None] = VersionedCache(1)
    cache.put(None, 1, None)
    assert cache.get(None) == (1, None)
