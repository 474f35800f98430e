"""The requests whose answers are recorded: good ones and bad ones, over every route, one after the other."""

from __future__ import annotations

import re

import collection_answers as of
from bodies import JSON, NPY, PNG, WIDTH, b64, form, png
from collection_answers import MOST, C
from service_process import Service, wait_until

MODEL = "vit_8x1_patch8-d1576a0720ed"  # what the service calls it
SETTINGS = {"max_request_images": 4, "max_request_points": MOST, "max_side": 100}


def health(s: Service) -> None:
    """Ask who is there, and for what is not."""
    for path in ("/livez", "/readyz", "/docs", "/v1/model", "/v1/models"):
        s.ask("health", "GET", path)
    s.ask("no key is needed", "GET", "/livez", key=None)
    s.ask("no key is needed", "HEAD", "/readyz", key=None)
    s.ask("health", "POST", "/livez")
    s.ask("no key", "GET", "/v1/model", key=None)
    s.ask("a wrong key", "GET", "/v1/model", key="wrong")
    s.ask("key in the other header", "GET", "/v1/model", key=None, x_api_key="write-key")
    s.ask("another scheme", "GET", "/v1/model", key=None, authorization="Basic write-key")
    s.ask("no key, no route", "GET", "/nothing", key=None)
    s.ask("no route", "GET", "/nothing")
    s.ask("no route of the API", "GET", "/v1/nothing")
    s.ask("no such method", "PATCH", "/v1/embed")
    s.ask("a slash too many", "GET", "/v1/collections/")
    s.ask("an id of ours for the request", "GET", "/livez", x_request_id="not one\tof these")
    s.ask("a model by name", "GET", f"/v1/model?model={MODEL}")
    s.ask("no such model", "GET", "/v1/model?model=none")
    s.ask("a model of OpenAI's", "GET", f"/v1/models/{MODEL}")
    s.ask("no such model of OpenAI's", "GET", "/v1/models/none")
    s.ask("no key at OpenAI's", "GET", "/v1/models", key=None)


def embedding(s: Service) -> None:
    """Embed images, and see what the network sees."""
    one = png(3)
    for query in ("", "?output=mean", "?output=cls%2Bmean", "?output=patches", "?output=all", "?model=none"):
        s.ask("raw", "POST", f"/v1/embed{query}", one, content_type=PNG)
    s.ask("JPEG", "POST", "/v1/embed", png(3, kind="JPEG"), content_type="image/jpeg")
    s.ask("npy", "POST", "/v1/embed", one, content_type=PNG, accept=f"{NPY};dtype=float16")
    s.ask("another format", "POST", "/v1/embed", png(3, kind="BMP"), content_type="image/bmp")
    s.ask("too many pixels", "POST", "/v1/embed", png(3, 120, 100), content_type=PNG)
    s.ask("JSON", "POST", "/v1/embed", {"images": [b64(one), "?", b64(b"x"), b64(one[:50])]})
    s.ask("JSON to npy", "POST", "/v1/embed", {"images": [b64(one), "?"]}, accept=NPY)
    s.ask("too many", "POST", "/v1/embed", {"images": [b64(one)] * 5})
    s.ask("none", "POST", "/v1/embed", {"images": []})
    s.ask("no type", "POST", "/v1/embed", one)
    for what, parts in (
        ("files", {"files": [("a", PNG, one), ("b", PNG, b"x")]}),
        ("none", {"other": ("a", PNG, one)}),
    ):
        body, kind = form(**parts)  # type: ignore[arg-type]
        s.ask(f"form, {what}", "POST", "/v1/embed", body, **kind)
    data = f"data:image/png;base64,{b64(one)}"
    for asked in (
        {"input": data, "model": MODEL},
        {"input": [data, b64(one)], "encoding_format": "float", "dimensions": WIDTH, "user": "x"},
        {"input": data, "dimensions": 7},
        {"input": data, "model": "none"},
        {"input": "https://example.org/a.png"},
        {"input": []},
        {"input": [data] * 5},
        {},
    ):
        s.ask(f"OpenAI {list(asked)}", "POST", "/v1/embeddings", asked)
    s.ask("OpenAI, no key", "POST", "/v1/embeddings", {"input": data}, key=None)
    s.ask("OpenAI, an image", "POST", "/v1/embeddings", one, content_type=PNG)
    for query in ("kind=attention", "kind=pca", "kind=attention&head=0", "kind=attention&head=7", "kind=x", ""):
        s.ask("visualize", "POST", f"/v1/visualize?{query}", one, content_type=PNG)
    s.ask("visualize no image", "POST", "/v1/visualize?kind=pca", b"x", content_type=PNG)
    s.ask("visualize JSON", "POST", "/v1/visualize?kind=pca", {})


def connections(s: Service) -> None:
    """Send what no HTTP client would."""
    for what, head, body in (
        ("no HTTP", "hello", b""),
        (
            "two lengths",
            "POST /v1/embed HTTP/1.1\ncontent-length: 1\ntransfer-encoding: chunked",
            b"1\r\nx\r\n0\r\n\r\n",
        ),
        ("headers too large", f"GET /livez HTTP/1.1\nx: {'x' * 70_000}", b""),
        ("no chunk", "POST /v1/embed HTTP/1.1\ncontent-type: image/png\ntransfer-encoding: chunked", b"x\r\n"),
        ("small chunks", "PUT /v1/collections/z HTTP/1.1\ntransfer-encoding: chunked", b"1\r\n \r\n" * 1200),
        ("an old version", "GET /livez HTTP/1.0", b""),
        (
            "in chunks",
            f"POST {C}/points/count HTTP/1.1\ntransfer-encoding: chunked\ncontent-type: {JSON}",
            b"2\r\n{}\r\n0\r\n\r\n",
        ),
    ):
        s.raw(what, head, body)


def scopes(s: Service, read_key: str) -> None:
    """Ask every route with a key that may only read; a line for each says what became of it."""
    paths = s.ask("", "GET", "/openapi.json").json()["paths"]
    s.recorded.pop()
    for path, methods in paths.items():
        for method in methods:
            reply = s.ask("", method.upper(), re.sub(r"\{\w+\}", "x", path), key=read_key)
            s.recorded.pop()
            told = reply.json() if b'"code"' in reply.body else {}
            s.recorded.append(f"{method.upper()} {path}: {reply.status} {told.get('code', '')}")


def record(s: Service, read_key: str) -> None:
    """Send all of them."""
    for part in (health, of.collections, of.large_collection, of.many_points, of.points, of.filters, of.searches):
        part(s)
    for part in (of.analysis, of.clusterings, embedding, connections):
        part(s)
    wait_until(lambda: s.ask("", "GET", "/v1/collections/large").json()["index"] != "exact" or s.recorded.pop() is None)
    s.ask("all", "GET", "/v1/collections")
    scopes(s, read_key)
