"""A library beside a dictionary that should hold the same: every operation is made on both, and every answer compared.

What an operation does is drawn from a `random.Random`: hypothesis gives one that it can shrink, the long run a seeded one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from faults.library.questions import LABELS, PAYLOADS, Payload, Test, question

from service.errors import CollectionMissing, FilterInvalid, PointConflict, PointMissing
from service.library.library import Collection, Library
from service.library.search import SearchOptions
from service.points import UNSET, Hit, NewPoint, Point, hash_vector, unit_rows
from service.store.filters import Filter, parse_filter
from service.store.tautologies import is_tautology

NAMES = {"a": 4, "b": 16}  # collections and their dimensions
IDS = tuple(f"{i}" for i in range(300))
CONTENTS = 400  # different vectors
NOTHING: tuple[None, Test] = (None, lambda *_: True)


@dataclass(frozen=True)
class Entry:
    """The content that is stored under an id."""

    content: int
    label: str | None
    payload: Payload
    picture: bytes | None


@lru_cache(2 * CONTENTS)
def vector(content: int, dimension: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(content).normal(size=dimension)


@lru_cache(2 * CONTENTS)
def unit(content: int, dimension: int) -> npt.NDArray[np.float32]:
    return unit_rows([vector(content, dimension)], dimension)[0]


class World:
    """Both of them, and the operations. `found` and `wanted` count the neighbours of searches that need not be exact."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.library = Library.open(directory, threads=1)
        self.models: dict[str, dict[str, Entry]] = {}
        self.found = self.wanted = 0
        for name, dimension in NAMES.items():
            self.library.create(name, "f", dimension)
            self.models[name] = {}

    def close(self) -> None:
        self.library.close()

    def _some(self, draw: Random) -> tuple[Collection, dict[str, Entry]]:
        name = draw.choice(sorted(NAMES))
        return self.library.collection(name), self.models[name]

    def _asked(self, draw: Random) -> tuple[Filter | None, Test]:
        if draw.random() < 0.4:
            return NOTHING
        asked, test = question(draw, IDS)
        return parse_filter(asked), test

    # Writes

    def put(self, draw: Random) -> None:
        collection, model = self._some(draw)
        overwrite = draw.random() < 0.5
        points, entries = [], {}
        for id_ in draw.sample(IDS, draw.choice([1, 1, 3, 12, 40])):
            content, label = draw.randrange(CONTENTS), draw.choice([UNSET, *LABELS])
            payload, picture = draw.choice([UNSET, *PAYLOADS]), draw.choice([None, b"%d" % content * 9])
            if id_ in model and draw.random() < 0.3:
                content = model[id_].content
            x = vector(content, collection.dimension)
            sent = None if draw.random() < 0.2 else x  # None: "the stored content has this hash"
            points.append(NewPoint(id_, hash_vector(x), sent, label, payload, picture))
            entries[id_] = (content, label, payload, picture, sent is None)
        for outcome in collection.put(points, overwrite):
            content, label, payload, picture, only_hash = entries[outcome.id]
            known = model.get(outcome.id)
            same = known is not None and known.content == content
            if not same and (only_hash or (known is not None and not overwrite)):
                assert isinstance(outcome.error, PointConflict)
                continue
            assert outcome.status == ("created" if known is None else "unchanged" if same else "replaced")
            was = known or Entry(content, None, None, None)
            model[outcome.id] = Entry(
                content,
                was.label if label is UNSET else label,
                was.payload if payload is UNSET else payload,
                was.picture if same else picture,
            )

    def delete(self, draw: Random) -> None:
        collection, model = self._some(draw)
        gone = draw.sample(IDS, draw.choice([1, 5, 30]))
        assert collection.delete(ids=gone) == len(set(gone) & model.keys())
        for id_ in gone:
            model.pop(id_, None)

    def delete_selected(self, draw: Random) -> None:
        collection, model = self._some(draw)
        asked, test = question(draw, IDS)
        condition = parse_filter(asked)
        if is_tautology(condition):  # everything: `drop` does that
            with pytest.raises(FilterInvalid):
                collection.delete(filter=condition)
            return
        gone = selected(model, test)
        assert collection.delete(filter=condition) == len(gone)
        for id_ in gone:
            del model[id_]

    def update(self, draw: Random) -> None:
        collection, model = self._some(draw)
        id_, label, payload = draw.choice(IDS), draw.choice([UNSET, *LABELS]), draw.choice([UNSET, *PAYLOADS])
        if id_ not in model:
            with pytest.raises(PointMissing):
                collection.update(id_, label, payload)
            return
        changes: dict[str, Any] = {"label": label, "payload": payload}
        model[id_] = replace(model[id_], **{k: v for k, v in changes.items() if v is not UNSET})
        assert agrees(collection.update(id_, label, payload), model)

    def drop(self, draw: Random) -> None:
        old, _ = self._some(draw)
        self.library.drop(old.name)
        with pytest.raises(CollectionMissing):
            old.count()
        self.library.create(old.name, "f", old.dimension)
        self.models[old.name] = {}

    def restart(self, _: Random) -> None:
        self.library.close()
        self.library = Library.open(self.directory, threads=1)
        assert [c.name for c in self.library.collections()] == sorted(NAMES)

    # Reads

    def query(self, draw: Random) -> None:
        """Many queries at once, with and without everything that a search can be told."""
        collection, model = self._some(draw)
        condition, test = self._asked(draw)
        limit, exact, with_vector = draw.choice([1, 10, 200]), draw.random() < 0.5, draw.random() < 0.3
        queries = [draw.randrange(CONTENTS) for _ in range(draw.choice([1, 1, 3, 25]))]
        without = draw.choice([None, [draw.choice([None, *IDS[:9]]) for _ in queries]])
        least = draw.choice([None, None, 0.2])
        answers = collection.query(
            [vector(q, collection.dimension) for q in queries],
            limit,
            SearchOptions(condition, score_threshold=least, with_vector=with_vector, exclude=without, exact=exact),
        )
        candidates = selected(model, test)
        stacked = stack([model[i].content for i in candidates], collection.dimension)
        for row, (query, hits) in enumerate(zip(queries, answers, strict=True)):
            scores = dict(zip(candidates, (stacked @ unit(query, collection.dimension)).tolist(), strict=True))
            scores.pop(without[row] if without else None, None)  # type: ignore[call-overload]
            self._compare(hits, scores, model, limit, least, exact)
            if with_vector:
                for hit in hits:
                    assert np.array_equal(hit.vector, unit(model[hit.id].content, collection.dimension))

    def _compare(
        self,
        hits: list[Hit],
        scores: dict[str, float],
        model: Mapping[str, Entry],
        limit: int,
        least: float | None,
        exact: bool,
    ) -> None:
        for hit in hits:
            assert hit.id in scores, "it is gone, or the filter does not select it"
            assert abs(hit.score - scores[hit.id]) < 1e-5
            assert agrees(hit, model)
        assert len({hit.id for hit in hits}) == len(hits)
        ours = [hit.score for hit in hits]
        assert ours == sorted(ours, reverse=True)
        best = sorted(scores.values(), reverse=True)[:limit]
        if least is not None:  # what rounding puts on either side of the threshold may be there or not
            surely, perhaps = sum(s > least + 1e-5 for s in best), sum(s > least - 1e-5 for s in best)
            assert len(hits) <= perhaps
            assert len(hits) >= surely or not exact
            best = best[: len(hits)] if exact else best[:surely]
        elif exact:
            assert len(hits) == len(best)
        if exact:
            np.testing.assert_allclose(ours, best, atol=1e-5)
        else:
            self.wanted += len(best)
            self.found += sum(o >= b - 1e-5 for o, b in zip(ours, best, strict=False))

    def scroll(self, draw: Random) -> None:
        collection, model = self._some(draw)
        condition, test = self._asked(draw)
        limit, with_vector = draw.choice([7, 50, 1000]), draw.random() < 0.3
        listed, cursor = collection.scroll(limit, None, condition, with_vector)
        while cursor is not None:
            page, cursor = collection.scroll(limit, cursor, condition, with_vector)
            assert 1 <= len(page) <= limit
            listed += page
        assert [point.id for point in listed] == sorted(selected(model, test))
        for point in listed:
            assert agrees(point, model)
            if with_vector:
                assert np.array_equal(point.vector, unit(model[point.id].content, collection.dimension))

    def count(self, draw: Random) -> None:
        collection, model = self._some(draw)
        condition, test = self._asked(draw)
        assert collection.count(condition) == len(selected(model, test))

    def point(self, draw: Random) -> None:
        collection, model = self._some(draw)
        id_ = draw.choice(IDS)
        assert set(collection.stored([id_])) == {id_} & model.keys()
        if id_ not in model:
            for ask in (collection.point, collection.picture):
                with pytest.raises(PointMissing):
                    ask(id_)
            return
        point = collection.point(id_, with_vector=True)
        assert agrees(point, model)
        assert np.array_equal(point.vector, unit(model[id_].content, collection.dimension))
        assert collection.picture(id_) == model[id_].picture
        hashed = hash_vector(vector(model[id_].content, collection.dimension))
        assert collection.stored([id_])[id_].content_hash == hashed

    def counts_agree(self) -> None:
        for name, model in self.models.items():
            stats = self.library.collection(name).stats()
            labels = [entry.label for entry in model.values() if entry.label is not None]
            assert (stats.points, stats.labelled, stats.labels) == (len(model), len(labels), len(set(labels)))


def selected(model: Mapping[str, Entry], test: Test) -> list[str]:
    return [id_ for id_, entry in model.items() if test(id_, entry.label, entry.payload)]


def agrees(found: Point | Hit, model: Mapping[str, Entry]) -> bool:
    return (found.label, found.payload) == (model[found.id].label, model[found.id].payload)


def stack(contents: list[int], dimension: int) -> npt.NDArray[np.float32]:
    return np.stack([unit(c, dimension) for c in contents]) if contents else np.empty((0, dimension), np.float32)


# Operations by how often the long run makes them.
OPERATIONS = {
    World.put: 30,
    World.delete: 8,
    World.delete_selected: 2,
    World.update: 10,
    World.query: 25,
    World.scroll: 6,
    World.count: 6,
    World.point: 12,
    World.drop: 0.2,
    World.restart: 0.4,
}
