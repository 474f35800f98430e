"""Requests to collections: points, pages, searches, classification, clusterings and what is odd, good ones and bad ones."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import numpy as np
from bodies import JSON, NPY, PNG, WIDTH, b64, form, npy, png, rows, vector
from service_process import Service, wait_until

C = "/v1/collections/c"
FAR = "/v1/collections/none"
MOST = 10_050  # points in a request; two such make a collection that gets an approximate index


def collections(s: Service) -> None:
    """Make, see and drop collections."""
    s.ask("none yet", "GET", "/v1/collections")
    s.ask("make", "PUT", C)
    s.ask("again", "PUT", C, {})
    s.ask("with other settings", "PUT", C, {"keep": "none"})
    s.ask("keep images", "PUT", "/v1/collections/kept", {"keep": "image"})
    s.ask("of no model", "PUT", "/v1/collections/x", {"fingerprint": "0" * 64})
    s.ask("a bad name", "PUT", "/v1/collections/%20x")
    s.ask("a name that is no UTF-8", "PUT", "/v1/collections/%ff")
    s.ask("a bad setting", "PUT", "/v1/collections/x", {"keep": "all"})
    s.ask("an unknown setting", "PUT", "/v1/collections/x", {"kept": "none"})
    s.ask("many unknown settings", "PUT", "/v1/collections/x", {str(i): 1 for i in range(20)})
    s.ask("no JSON", "PUT", "/v1/collections/x", b"{", content_type=JSON)
    s.ask("another type", "PUT", "/v1/collections/x", b"{}", content_type="text/plain")
    s.ask("see", "GET", C)
    s.ask("see none", "GET", FAR)
    s.ask("drop", "PUT", "/v1/collections/gone")
    s.ask("drop", "DELETE", "/v1/collections/gone")
    s.ask("drop none", "DELETE", "/v1/collections/gone")
    for path, asked in (
        ("/query", {"vector": vector(0)}),
        ("/classify", {"vector": vector(0)}),
        ("/clusterings", {"k": 2}),
        ("/duplicates", {}),
        ("/outliers", {}),
        ("/classify/evaluate", {}),
        ("/label-issues", {}),
        ("/points/scroll", {}),
        ("/points/count", {}),
    ):
        s.ask("of an empty collection", "POST", C + path, asked)
        s.ask("of no collection", "POST", FAR + path, asked)


def large_collection(s: Service) -> None:
    """Put so many points that an approximate index is built meanwhile; `record` waits for it in the end."""
    s.ask("make", "PUT", "/v1/collections/large", {"keep": "none"})
    matrix = np.random.default_rng(0).normal(size=(2 * MOST, WIDTH)).astype(np.float32)
    for start in (0, MOST):
        ids = json.dumps({"points": [{"id": f"{i}"} for i in range(start, start + MOST)]}).encode()
        body, kind = form(points=("", JSON, ids), vectors=("a", NPY, npy(matrix[start : start + MOST])))
        s.ask("many", "PUT", "/v1/collections/large/points", body, **kind)
        s.recorded.pop()  # 10,000 lines


def many_points(s: Service) -> None:
    """Put points of all kinds, many at a time."""
    labels = ["ant", "bee", "cat"]
    points: list[dict[str, Any]] = [
        {"id": f"p/{i}", "vector": vector(i), "label": labels[i % 3], "payload": {"n": i, "even": i % 2 == 0}}
        for i in range(24)
    ]
    points[5]["label"], points[7]["label"] = "ant", None
    at = f"{C}/points"
    s.ask("vectors", "PUT", at, {"points": points})
    s.ask("the same", "PUT", at, {"points": points[:2]})
    s.ask("other content", "PUT", at, {"points": [{"id": "p/0", "vector": vector(99)}]})
    s.ask("replaced", "PUT", at, {"points": [{"id": "p/0", "vector": vector(24)}], "replace": True})
    s.ask("no points", "PUT", at, {"points": []})
    s.ask("neither vector nor image", "PUT", at, {"points": [{"id": "q"}]})
    s.ask("too short", "PUT", at, {"points": [{"id": "q", "vector": [1.0]}]})
    s.ask("zero", "PUT", at, {"points": [{"id": "q", "vector": [0.0] * WIDTH}]})
    s.ask("NaN", "PUT", at, b'{"points": [{"id": "q", "vector": [NaN]}]}', content_type=JSON)
    s.ask("text for a number", "PUT", at, {"points": [{"id": "q", "vector": ["1"] * WIDTH}]})
    s.ask("twice one id", "PUT", at, {"points": [{"id": "q", "vector": vector(1)}] * 2})
    s.ask("a bad id", "PUT", at, {"points": [{"id": "a\n", "vector": vector(1)}]})
    s.ask("a bad label", "PUT", at, {"points": [{"id": "q", "vector": vector(1), "label": ""}]})
    s.ask("a bad payload", "PUT", at, {"points": [{"id": "q", "vector": vector(1), "payload": {"": 1}}]})
    s.ask("another model's", "PUT", at, {"points": [{"id": "q", "vector": vector(1)}], "fingerprint": "0" * 64})
    s.ask("too many", "PUT", at, {"points": [{"id": str(i), "vector": [1.0]} for i in range(MOST + 1)]})
    images = [{"id": "i/1", "image": b64(png(1))}, {"id": "i/2", "image": "?"}, {"id": "i/3", "image": b64(b"x")}]
    s.ask("images, some bad", "PUT", at, {"points": images})
    s.ask("too many images", "PUT", at, {"points": [{"id": str(i), "image": b64(png(1))} for i in range(5)]})
    for what, parts in (
        ("files", {"points": ("", JSON, b'{"points":[{"id":"f/1","label":"ant"}]}'), "files": ("a", PNG, png(2))}),
        ("a matrix", {"points": ("", JSON, b'{"points":[{"id":"m/1"}]}'), "vectors": ("a", NPY, npy(rows(1)))}),
        ("wide", {"points": ("", JSON, b'{"points":[{"id":"m/2"}]}'), "vectors": ("a", NPY, npy(rows(1)[:, :3]))}),
        ("no matrix", {"points": ("", JSON, b'{"points":[{"id":"m/2"}]}'), "vectors": ("a", NPY, b"x")}),
        ("more rows", {"points": ("", JSON, b'{"points":[{"id":"m/2"}]}'), "vectors": ("a", NPY, npy(rows(2)))}),
        ("no files", {"points": ("", JSON, b'{"points":[{"id":"m/2"}]}')}),
        ("no points", {"files": ("a", PNG, png(2))}),
    ):
        body, kind = form(**parts)  # type: ignore[arg-type]
        s.ask(f"form, {what}", "PUT", at, body, **kind)
    s.ask("a form without an end", "PUT", at, b"--border\r\n", content_type="multipart/form-data; boundary=border")
    s.ask("a form without a border", "PUT", at, b"x", content_type="multipart/form-data")
    s.ask("an image here", "PUT", at, png(), content_type=PNG)


def points(s: Service) -> None:
    """Put, read, change and delete single points."""
    for name in ("a/b.png", "a/thumbnail", "../x", "scroll", "ü \U0001f600"):
        at = f"{C}/points/{quote(name, safe='')}"
        s.ask("put", "PUT", f"{at}?label=dog&payload=%7B%22a%22%3A1%7D", png(3), content_type=PNG)
        s.ask("read", "GET", at)
    at = f"{C}/points/a%2Fb.png"
    s.ask("again", "PUT", at, png(3), content_type=PNG)
    s.ask("other content", "PUT", at, png(4), content_type=PNG)
    s.ask("replaced", "PUT", f"{at}?replace=true", png(4), content_type="image/*")
    s.ask("no image", "PUT", at, b"GIF89a", content_type="image/gif")
    s.ask("broken", "PUT", at, png(4)[:60], content_type=PNG)
    s.ask("empty", "PUT", at, b"", content_type=PNG)
    s.ask("a payload that is none", "PUT", f"{at}?payload=1", png(4), content_type=PNG)
    s.ask("a bad option", "PUT", f"{at}?replace=perhaps", png(4), content_type=PNG)
    s.ask("JSON here", "PUT", at, {})
    s.ask("no type", "PUT", at, png(4))
    s.ask("no collection", "PUT", f"{FAR}/points/x", png(4), content_type=PNG)
    s.ask("a long id", "GET", f"{C}/points/{'x' * 513}")
    s.ask("no UTF-8", "GET", f"{C}/points/%ff")
    s.ask("none", "GET", f"{C}/points/none")
    s.ask("with its vector", "GET", f"{C}/points/p%2F1?with_vector=true")
    s.ask("change", "PATCH", at, {"label": None, "payload": {"b": [1, {"c": "x"}]}})
    s.ask("change nothing", "PATCH", at, {})
    s.ask("change what is none", "PATCH", f"{C}/points/none", {"label": "x"})
    s.ask("a bad change", "PATCH", at, {"label": 1})
    s.ask("a picture", "GET", f"{at}/thumbnail")
    s.ask("no picture", "GET", f"{C}/points/p%2F1/thumbnail")
    s.ask("of none", "GET", f"{C}/points/none/thumbnail")
    s.ask("kept", "PUT", "/v1/collections/kept/points/k", png(3), content_type=PNG)
    s.ask("kept", "GET", "/v1/collections/kept/points/k/thumbnail")
    s.ask("delete", "DELETE", f"{C}/points/..%2Fx")
    s.ask("delete again", "DELETE", f"{C}/points/..%2Fx")
    s.ask("delete by ids", "POST", f"{C}/points/delete", {"ids": ["scroll", "none"]})
    s.ask("delete by filter", "POST", f"{C}/points/delete", {"filter": {"must": [{"key": "a", "match": {"value": 1}}]}})
    s.ask("delete by both", "POST", f"{C}/points/delete", {"ids": ["x"], "filter": {}})
    s.ask("delete by nothing", "POST", f"{C}/points/delete", {})
    s.ask("too many ids", "POST", f"{C}/points/delete", {"ids": [str(i) for i in range(MOST + 1)]})


def filters(s: Service) -> None:
    """Page and count, with filters good and bad."""
    page = s.ask("a page", "POST", f"{C}/points/scroll", {"limit": 3}).json()
    s.ask("the next", "POST", f"{C}/points/scroll", {"limit": 2, "cursor": page["next_cursor"], "with_vector": True})
    s.ask("no cursor", "POST", f"{C}/points/scroll", {"cursor": "x"})
    s.ask("no such limit", "POST", f"{C}/points/scroll", {"limit": 0})
    s.ask("no body", "POST", f"{C}/points/scroll")
    s.ask("no body", "POST", f"{C}/points/count")
    for condition in (
        {"must": [{"key": "label", "match": {"value": "ant"}}]},
        {"should": [{"key": "n", "range": {"gte": 3, "lt": 9}}, {"exists": "b"}]},
        {"must_not": [{"key": "even", "match": {"any": [True, "x"]}}], "must": [{"ids": ["p/1", "p/2"]}]},
        {},
        {"must": {}},
        {"must": [{"key": "n"}]},
        {"must": [{"key": "n", "range": {}}]},
        {"must": [{"key": "n", "match": {"value": None}}]},
        {"some": []},
    ):
        s.ask(f"count {condition}", "POST", f"{C}/points/count", {"filter": condition})
    s.ask("page", "POST", f"{C}/points/scroll", {"filter": {"must": [{"exists": "even"}]}, "limit": 2})


def searches(s: Service) -> None:
    """Search and classify."""
    ant = {"must": [{"key": "label", "match": {"value": "ant"}}]}
    for asked in (
        {"vector": vector(30), "limit": 3},
        {"id": "p/4", "limit": 2, "with_vector": True, "with_payload": False},
        {"vector": vector(30), "filter": ant, "limit": 2, "exact": True},
        {"vector": vector(30), "score_threshold": 0.95},
        {"image": b64(png(4)), "limit": 1},
        {"id": "none"},
        {"vector": [1.0]},
        {"vector": [0.0] * WIDTH},
        {"vector": vector(1), "id": "p/1"},
        {},
        {"vector": vector(1), "limit": 1001},
        {"vector": vector(1), "limit": 2.0},
        {"vector": vector(1), "limit": "2"},
        {"vector": vector(1), "fingerprint": "0" * 64},
        {"image": "?"},
    ):
        s.ask(f"query {list(asked)}", "POST", f"{C}/query", asked)
    s.ask("by an image", "POST", f"{C}/query?limit=1&with_payload=false", png(4), content_type=PNG)
    s.ask("with a filter", "POST", f"{C}/query?limit=1&filter={quote('{}')}", png(4), content_type=PNG)
    s.ask("with a bad filter", "POST", f"{C}/query?filter=x", png(4), content_type=PNG)
    s.ask("a bad option", "POST", f"{C}/query?limit=x", png(4), content_type=PNG)
    s.ask("another type", "POST", f"{C}/query", b"x", content_type="text/plain")
    s.ask("JSON too deep", "POST", f"{C}/query", b"[" * 5000, content_type=JSON)
    s.ask("JSON in no UTF-8", "POST", f"{C}/query", b'{"id": "\xff"}', content_type=JSON)
    batch = [{"vector": vector(30), "limit": 1}, {"id": "p/4", "limit": 2}, {"vector": vector(31), "limit": 1}]
    s.ask("batch", "POST", f"{C}/query/batch", {"queries": batch})
    s.ask("an empty batch", "POST", f"{C}/query/batch", {"queries": []})
    s.ask("a batch too many", "POST", f"{C}/query/batch", {"queries": [{"id": "p/4"}] * (MOST + 1)})
    s.ask("batch, one is bad", "POST", f"{C}/query/batch", {"queries": [*batch, {"vector": [1]}]})
    for asked in (
        {"vector": vector(30), "k": 5},
        {"id": "p/4", "k": 3, "weighting": "distance", "balance": "inverse"},
        {"vector": vector(30), "k": 3, "reject_below": 1.0, "temperature": 50.0},
        {"vector": vector(30), "k": 2, "filter": ant, "weighting": "uniform", "exact": True},
        {"vector": vector(30), "filter": {"must": [{"ids": ["p/7"]}]}},
        {"vector": vector(30), "temperature": 0},
        {"vector": vector(30), "weighting": "other"},
    ):
        s.ask(f"classify {list(asked)}", "POST", f"{C}/classify", asked)
    s.ask("by an image", "POST", f"{C}/classify?k=2&weighting=uniform", png(4), content_type=PNG)


def analysis(s: Service) -> None:
    """Evaluate, find what is odd, and cluster; jobs that are done."""
    wait = "?wait_s=60"
    for path, asked in (
        ("/classify/evaluate", {"ks": [1, 3]}),
        ("/classify/evaluate", {"ks": [1, 1]}),
        ("/label-issues", {"k": 3, "limit": 2}),
        ("/label-issues", {"k": 0}),
        ("/duplicates", {"threshold": 0.97, "limit": 2}),
        ("/duplicates", {"threshold": 0.9, "across": ["ant", "bee"], "exact": True}),
        ("/duplicates", {"across": ["ant", "ant"]}),
        ("/outliers", {"k": 3, "limit": 3}),
        ("/outliers", {"k": "3"}),
        ("/clusterings", {"method": "hdbscan", "min_size": 3}),
        ("/clusterings", {"method": "hdbscan", "k": 3}),
        ("/clusterings", {"k": "auto", "seed": 1}),
        ("/clusterings", {}),
    ):
        s.ask(f"{list(asked)}", "POST", f"{C}{path}{wait}", asked)
    s.ask("too long a wait", "POST", f"{C}/outliers?wait_s=61", {})
    job = s.ask("later", "POST", f"{C}/outliers?wait_s=0", {"limit": 1}).json()["job"]
    wait_until(lambda: s.ask("", "GET", f"/v1/jobs/{job}").json()["state"] == "done" or s.recorded.pop() is None)
    s.recorded.pop()
    s.ask("a job", "GET", f"/v1/jobs/{job}")
    s.ask("cancelled after its end", "DELETE", f"/v1/jobs/{job}")
    s.ask("no job", "GET", "/v1/jobs/none")
    s.ask("no job", "DELETE", "/v1/jobs/none")


def clusterings(s: Service) -> None:
    """Look into a clustering."""
    made = s.ask("k-means", "POST", f"{C}/clusterings?wait_s=60", {"k": 3, "seed": 2}).json()["clustering"]
    g = f"{C}/clusterings/{made}"
    s.ask("all", "GET", f"{C}/clusterings")
    s.ask("clusters", "GET", f"{g}/clusters")
    page = s.ask("its points", "GET", f"{g}/clusters/0/points?limit=2").json()
    s.ask("the next", "GET", f"{g}/clusters/0/points?limit=2&cursor={page['next_cursor']}")
    s.ask("no cursor", "GET", f"{g}/clusters/0/points?cursor=x")
    s.ask("no cluster", "GET", f"{g}/clusters/9/points")
    s.ask("no number", "GET", f"{g}/clusters/x/points")
    s.ask("a name", "PATCH", f"{g}/clusters/0", {"name": "ants"})
    s.ask("no name", "PATCH", f"{g}/clusters/0", {"name": ""})
    s.ask("of no cluster", "PATCH", f"{g}/clusters/9", {"name": "x"})
    s.ask("outliers", "GET", f"{g}/outliers?limit=2")
    s.ask("of one", "GET", f"{g}/outliers?limit=2&cluster=1")
    s.ask("of none", "GET", f"{g}/outliers?cluster=-1")
    s.ask("nearest", "POST", f"{g}/query", {"vector": vector(30), "limit": 2})
    s.ask("nearest to a point", "POST", f"{g}/query", {"id": "p/4", "limit": 1})
    s.ask("nearest to an image", "POST", f"{g}/query?limit=1", png(4), content_type=PNG)
    s.ask("nearest to nothing", "POST", f"{g}/query", {})
    s.ask("delete", "DELETE", g)
    for path in ("/clusters", "/outliers", "/clusters/0/points"):
        s.ask("it is gone", "GET", f"{g}{path}")
    s.ask("it is gone", "DELETE", g)
    s.ask("it is gone", "POST", f"{g}/query", {"vector": vector(30)})
