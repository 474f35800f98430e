"""The library against a dictionary: random operations and restarts, and after each the two must agree."""

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import PointConflict
from service.filters import parse_filter
from service.library import Library
from service.points import UNSET, NewPoint, hash_vector, unit_rows

D = 4
ids = st.sampled_from([f"{i}" for i in range(30)])
contents = st.integers(0, 50)
labels = st.sampled_from([None, "cat", "dog"])
maybe_labels = labels | st.just(UNSET)
maybe_payloads = st.sampled_from([UNSET, None, {"n": 1}, {"n": 2}])


def vector(content: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(content).normal(size=D)


class LibraryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.small_segments = patch("service.vectors.SEGMENT_BYTES", 4 * D * 5)  # five vectors to a segment
        self.small_segments.start()
        self.directory = Path(tempfile.mkdtemp())
        self.library = Library.open(self.directory)
        self.collection = self.library.create("c", "f", D)[0]
        self.model: dict[str, tuple[int, Any, Any]] = {}  # id -> content, label, payload

    def teardown(self) -> None:
        self.library.close()
        shutil.rmtree(self.directory)
        self.small_segments.stop()

    @rule(
        batch=st.dictionaries(ids, st.tuples(contents, maybe_labels, maybe_payloads), min_size=1, max_size=12),
        replace=st.booleans(),
    )
    def put(self, batch: dict[str, tuple[int, Any, Any]], replace: bool) -> None:
        points = [NewPoint(i, hash_vector(vector(c)), vector(c), la, p) for i, (c, la, p) in batch.items()]
        for outcome in self.collection.put(points, replace):
            content, label, payload = batch[outcome.id]
            known = self.model.get(outcome.id)
            if known is not None and known[0] != content and not replace:
                assert isinstance(outcome.error, PointConflict)
                continue
            status = "created" if known is None else "unchanged" if known[0] == content else "replaced"
            assert outcome.status == status
            _, old_label, old_payload = known or (0, None, None)
            self.model[outcome.id] = (
                content,
                old_label if label is UNSET else label,
                old_payload if payload is UNSET else payload,
            )

    @rule(gone=st.sets(ids, max_size=15))
    def delete(self, gone: set[str]) -> None:
        assert self.collection.delete(ids=sorted(gone)) == len(gone & self.model.keys())
        for id_ in gone:
            self.model.pop(id_, None)

    @rule(label=st.sampled_from(["cat", "dog"]))
    def delete_by_label(self, label: str) -> None:
        gone = {i for i, (_, la, _) in self.model.items() if la == label}
        chosen = parse_filter({"must": [{"key": "label", "match": {"value": label}}]})
        assert self.collection.delete(filter=chosen) == len(gone)
        for id_ in gone:
            del self.model[id_]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), label=labels)
    def update(self, data: st.DataObject, label: str | None) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.model)))
        content, _, payload = self.model[id_]
        assert self.collection.update(id_, label=label).label == label
        self.model[id_] = (content, label, payload)

    @rule()
    def restart(self) -> None:
        self.library.close()
        self.library = Library.open(self.directory)
        self.collection = self.library.collection("c")

    @rule()
    def drop(self) -> None:
        self.library.drop("c")
        self.collection = self.library.create("c", "f", D)[0]
        self.model.clear()

    @rule(content=contents, limit=st.integers(1, 40), label=st.sampled_from([None, "cat"]))
    def search(self, content: int, limit: int, label: str | None) -> None:
        chosen = None if label is None else parse_filter({"must": [{"key": "label", "match": {"value": label}}]})
        query = unit_rows([vector(content)], D)[0]
        scores = {
            i: float(query @ unit_rows([vector(c)], D)[0])
            for i, (c, la, _) in self.model.items()
            if label in (None, la)
        }
        hits = self.collection.query([query], limit, filter=chosen)[0]
        assert len(hits) == min(limit, len(scores)) == len({h.id for h in hits})
        np.testing.assert_allclose([h.score for h in hits], sorted(scores.values(), reverse=True)[:limit], atol=1e-5)
        for hit in hits:
            np.testing.assert_allclose(hit.score, scores[hit.id], atol=1e-5)
            assert (hit.label, hit.payload) == self.model[hit.id][1:]

    @rule(limit=st.integers(1, 40))
    def scroll(self, limit: int) -> None:
        listed, cursor = self.collection.scroll(limit)
        while cursor is not None:
            page, cursor = self.collection.scroll(limit, cursor)
            listed += page
        assert [(p.id, p.label, p.payload) for p in listed] == [(i, *self.model[i][1:]) for i in sorted(self.model)]

    @invariant()
    def counts_agree(self) -> None:
        assert self.collection.count() == len(self.model)
        stats = self.collection.stats()
        assert (stats.points, stats.labelled) == (
            len(self.model),
            sum(la is not None for _, la, _ in self.model.values()),
        )


LibraryMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestLibraryAgainstADictionary = LibraryMachine.TestCase
