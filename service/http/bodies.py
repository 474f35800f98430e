"""HTTP bodies as plain values, images, vectors and pydantic models: from JSON, base64, multipart, npy and percent-encoding.

Nothing here looks into an image. What a request says about itself is checked before anything of it is decoded.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
from fastapi.exceptions import RequestValidationError
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from backbone.errors import EmptyImage
from service.concurrency.cooperative import Yielder
from service.errors import InvalidVector, MalformedRequest, TooManyItems
from service.http.base64_text import PART_CHARS, base64_of, decode_leniently
from service.http.large_json import MAX_VALUES, SLICE_BYTES, parse_bounded, parse_large

M = TypeVar("M", bound=BaseModel)


async def read_image(request: Request) -> bytes:
    """Return the raw body: one encoded image.

    Raises:
        EmptyImage: there is none.
    """
    data = await request.body()
    if not data:
        raise EmptyImage("the body is empty; send the bytes of an image file.")
    return data


class JsonRequest(Request):
    """A request whose JSON the framework reads: for routes whose bodies have no list of thousands."""

    async def json(self) -> Any:  # noqa: ANN401
        """Return the body. Raises ValueError, and HTTPException (413) where it is far larger than any that is taken."""
        text = await self.body()
        return await super().json() if len(text) <= SLICE_BYTES else await parse_bounded(text)


async def read_json(request: Request, model: type[M], max_items: int = MAX_VALUES) -> M:
    """Return the body as `model`.

    Raises:
        RequestValidationError: not JSON, or not of that shape.
        TooManyItems: its long list has more than `max_items`.
    """
    return await parse_json(await request.body(), model, max_items)


async def parse_json(text: bytes, model: type[M], max_items: int = MAX_VALUES) -> M:
    """Return JSON text as `model`; raises as `read_json`."""
    with _as_validation_error():
        return (
            await parse_large(text, model, max_items)
            if len(text) > SLICE_BYTES
            else model.model_validate(from_json(text))
        )


@contextmanager
def _as_validation_error() -> Iterator[None]:
    """Raise what parsing raises as the framework's own error for bodies."""
    try:
        yield
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in found]) from error
    except ValueError as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body",), "msg": f"Invalid JSON: {error}"}]
        ) from error


def parse_object(name: str, text: str | None) -> dict[str, Any] | None:
    """Return a JSON object that came as the query parameter `name`, or None where it is absent or null.

    Raises:
        MalformedRequest: it is not the JSON of an object.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the query parameter {name} is not valid JSON.") from error
    if value is not None and not isinstance(value, dict):
        raise MalformedRequest(f"the query parameter {name} must be a JSON object.")
    return value


async def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text, which may stand in a data URI, in lines, in the alphabet of URLs and without padding.

    Raises:
        MalformedRequest: it is none.
        UnsupportedImageType: it is an address, which nobody fetches.
    """
    signs, in_uri = base64_of(text)
    yielder, data = Yielder(), io.BytesIO()  # which gives its bytes away without another copy of all in one go
    try:
        for start in range(0, len(signs), PART_CHARS):
            inside = start + PART_CHARS < len(signs)
            data.write(_decode_part(signs[start : start + PART_CHARS], inside))
            await yielder.yield_if_due()
        return data.getvalue()
    except ValueError:  # not as RFC 4648 writes it, which nearly everybody does and which is read twice as fast
        data.close()
    try:
        return await decode_leniently(signs, in_uri)
    except ValueError as error:
        raise MalformedRequest(f"the image is not valid base64: it {error}; encode the bytes of the file.") from error


def _decode_part(text: str, inside: bool) -> bytes:
    if inside and "=" in text:
        raise ValueError("an end before the end")
    return base64.b64decode(text, validate=True)


@asynccontextmanager
async def read_form(request: Request, max_files: int, max_field_bytes: int) -> AsyncIterator[FormData]:
    """Give a multipart body; its files are closed at the end.

    Raises:
        TooManyItems: more than `max_files` files.
        HTTPException: it cannot be parsed (400).
    """
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=max_files, max_fields=10, max_part_size=max_field_bytes
    )
    parser.spool_max_size = (
        max_field_bytes  # in memory, where it is counted: no temporary file, which a full disk would refuse
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many("files", max_files) from error
        raise HTTPException(400) from error
    try:
        yield form
    finally:
        await form.close()


async def form_files(form: FormData, name: str) -> list[bytes]:
    """Return the bytes of the files that were sent under `name`, in order.

    Raises:
        MalformedRequest: a part of that name is a field without a file name.
    """
    files = []
    for part in form.getlist(name):
        if not isinstance(part, UploadFile):
            raise MalformedRequest(f"the part {name} has no file name; send it as a file.")
        files.append(await part.read())
    return files


async def form_text(form: FormData, name: str) -> bytes:
    """Return the JSON part `name`, sent as a field or as a file.

    Raises:
        MalformedRequest: it is missing or there are several.
    """
    parts = form.getlist(name)
    if len(parts) != 1:
        raise MalformedRequest(f"a multipart request needs one part {name} with JSON.")
    return await parts[0].read() if isinstance(parts[0], UploadFile) else parts[0].encode(errors="surrogatepass")


def check_count(items: Sequence[object], max_items: int, what: str) -> None:
    """Refuse a request with more than `max_items` items. Raises TooManyItems."""
    if len(items) > max_items:
        raise too_many(what, max_items)


def too_many(what: str, max_items: int) -> TooManyItems:
    """Return the error for more than `max_items` items of a kind."""
    return TooManyItems(f"the request has more than {max_items:,} {what}, the limit; send it in parts.")


def parse_npy(data: bytes) -> NDArray[np.float32]:
    """Return the float matrix [n, D] of an npy file (format 1.0 or 2.0); objects are never unpickled.

    Raises:
        MalformedRequest: not an npy file, or its header announces another size than it has.
        InvalidVector: not a matrix of 16-, 32- or 64-bit floats.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = read_header(file)
    except (ValueError, KeyError) as error:
        raise MalformedRequest("the vectors are not a valid npy file.") from error
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize > 8:
        raise InvalidVector("the npy file must hold a matrix [n, dimension] of 16-, 32- or 64-bit floats.")
    body = memoryview(data)[file.tell() :]
    if len(body) != shape[0] * shape[1] * dtype.itemsize:  # before anything of the announced size is made
        raise MalformedRequest("the npy file announces another size than it has.")
    matrix = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return float32(matrix)


def float32(values: ArrayLike) -> NDArray[np.float32]:
    """Return numbers as float32; what does not fit becomes Inf, which the library refuses."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(np.asarray(values, dtype=np.float64), dtype=np.float32)


def to_npy(array: NDArray[Any]) -> bytes:
    """Return `array` as the bytes of an npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def path_text(raw: str) -> str:
    """Return a percent-encoded segment of the raw path as text.

    Raises:
        MalformedRequest: it is not the encoding of UTF-8 text.
    """
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError as error:
        raise MalformedRequest("the URL is not percent-encoded UTF-8.") from error
