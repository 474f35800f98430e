"""The settings of the service, from `DINODEX_*` environment variables or the command line.

Each field's description says its unit and what it does, and after "Default:" why it has that default; `docs/configuration.md` is
generated from here. A secret can be given as a file (`DINODEX_API_KEY_FILE`), as Docker and systemd hand them over.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backbone.decode import DecodeLimits
from backbone.formats import SERVICE_FORMATS, formats_named
from backbone.value_range import ValueRange
from service.errors import SettingsInvalid
from service.key_text import header_key, read_key_file

RuntimeName = Literal["auto", "openvino", "torch", "torch-compile"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]

MiB, GiB = 2**20, 2**30
# Taken off a path wherever it stands in front, so it may not be the beginning of one of ours.
_OWN_PATHS: Final = ("v1", "livez", "readyz", "metrics", "docs", "openapi.json")
_ROOT_PATH: Final = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")
Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """The resolved settings of one service process."""

    model_config = SettingsConfigDict(
        env_prefix="DINODEX_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    artifact: Annotated[tuple[Path, ...], NoDecode] = Field(
        min_length=1,
        description="Directory of the artifact that embeds images; several are separated by `:`, and the first is the default one. "
        "Queue, decoders and batches are counted for each. Default: none, the service has no model of its own.",
    )
    data: Path = Field(
        description="Directory of the collections; made if missing, held by one process. Default: none, data has no obvious home."
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on. Default: this machine only; opening a network is a decision."
    )
    port: int = Field(
        8000, ge=0, le=65535, description="TCP port; 0 takes a free one. Default: what most Python services use."
    )
    api_key: SecretStr | None = Field(
        None,
        description="The write key that every request presents. Default: none; without one the service does not start.",
    )
    api_key_file: Path | None = Field(
        None, description="File holding the write key, instead of `api_key`. Default: none."
    )
    allow_anonymous: bool = Field(
        False,
        description="Serve without keys, on a loopback address only. Default: off; an open door is asked for by name.",
    )
    rate_per_s: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Requests a second that one key may send on average, twice as many at once; more are answered 429. 0 is no limit. "
        "Default: 0; the queue protects the service, and only who gives keys to several callers knows what is fair.",
    )
    runtime: RuntimeName = Field(
        "auto",
        description="What computes the network: openvino, torch, or torch-compile, which wants a C++ compiler and a minute at each "
        "start. Default: auto takes torch on a GPU, and on a CPU OpenVINO where it is installed and torch otherwise.",
    )
    precision: PrecisionName = Field(
        "auto",
        description="What matrix products are computed in: fp32, bf16 or fp16 (on a GPU). Default: auto measures, and takes less than "
        "fp32 where that is 1.2 times as fast, fp32 computes fewer than 500 images a second and core (a core decodes no more), "
        "and golden images keep a cosine of 0.999 to the vectors of training; fp32 keeps 0.9999.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of one inference or search; 0 means all cores. Default: 0, one batch at a time may have the machine. "
        "Set explicitly because torch and FAISS each bring an OpenMP pool.",
    )
    decode_workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="Processes that decode images; 0 means as many as cores. Default: 0; decoding keeps a core busy.",
    )
    decode_timeout_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds that decoding one image may take, then its process is ended. Default: 10; the largest image that the "
        "limits let through takes two.",
    )
    batch_images: Count = Field(
        32,
        description="Most images in one forward pass. Default: 32; more gains nothing on a CPU and delays the first answer.",
    )
    batch_wait_ms: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="Milliseconds that a forward pass waits for images that are being decoded; for others it never waits. "
        "Default: 2, a tenth of the smallest network's pass.",
    )
    queue_images: Count = Field(
        256,
        description="Most images admitted and not yet answered; more are refused with 503. Default: 256, a few seconds of work on two "
        "cores, beyond which a caller does better to come back.",
    )
    queue_bytes: Count = Field(
        256 * MiB,
        description="Most bytes of encoded images admitted and not yet answered; more are refused with 503. Default: 256 MiB, as many "
        "photographs of 1 MB as images may wait.",
    )
    queue_searches: Count = Field(
        1024,
        description="Most searches (also counts and pages by a filter) that wait for their turn; more are refused with 503. Default: "
        "1,024, about a second of work on two cores.",
    )
    queue_wait_s: float = Field(
        4.0,
        gt=0,
        le=3600,
        description="Seconds of work that may wait in front of a search, or of a request of up to 4 images beyond one full forward "
        "pass; more are refused with 503. Default: 4, so that under overload an answer comes within about 5 seconds or not at all, and "
        "soon after it as before.",
    )
    embed_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds from the admission of an image to its vector, and that a search may wait for its turn, then the request "
        "is answered 504; what would take longer is refused at once. Default: 30, half of what the common proxies wait.",
    )
    max_body_bytes: Count = Field(
        64 * MiB,
        description="Bytes of a request body, counted while they arrive. Default: 64 MiB, about 30 large photographs.",
    )
    request_memory_bytes: Count = Field(
        GiB,
        description="Memory that running requests may hold at a time, reckoned from above while bodies arrive: twice an image's or a "
        "matrix' bytes, three times a form's, four times others', and what the values in JSON become. More are refused with 503, or "
        "413 where one alone is too much. Default: 1 GiB, four of the largest bodies, or 250 photographs of 2 MB.",
    )
    formats: Annotated[tuple[str, ...], NoDecode] = Field(
        SERVICE_FORMATS,
        min_length=1,
        description="Formats of images that are taken, separated by commas: jpeg, png, webp, tiff, bmp, gif, avif, and heic where "
        "`dinodex[heif]` is installed. Default: jpeg,png,webp, what browsers send; each further decoder is a library of C that meets "
        "the bytes of strangers.",
    )
    value_range: Annotated[ValueRange | None, NoDecode] = Field(
        None,
        description="What is black and white in grey images of 16 and 32 bits, such as 0:4095 for 12 bits in 16. It makes other "
        "vectors, so that the model has another fingerprint. Default: none; the artifact says, or else all of 16 bits count.",
    )
    max_image_bytes: Count = Field(
        20 * MiB, description="Bytes of one encoded image. Default: 20 MiB; a 50-megapixel photograph stays below."
    )
    max_pixels: Count = Field(
        50_000_000,
        description="Pixels of one image, read from its header. Default: 50 million, the largest common camera.",
    )
    max_side: Count = Field(
        30_000, description="Pixels of an image's longer side. Default: 30,000, beyond any panorama of 50 MP."
    )
    max_scans: Count = Field(
        100,
        description="Scans of a progressive JPEG. Default: 100; cameras write 10, and each scan of a bomb costs 6 ms.",
    )
    max_chunks: Count = Field(
        1_000,
        description="Chunks (segments of a JPEG) of one image beside those of its pixels. Default: 1,000; 20 MiB of metadata are 320 "
        "full segments, and an empty one costs 5 microseconds.",
    )
    max_request_images: Count = Field(
        64, description="Images in one request. Default: 64, two full forward passes, a quarter of the queue."
    )
    max_request_points: Count = Field(
        10_000,
        description="Ready vectors, ids or queries in one request. Default: 10,000, one group commit of some 15 MB.",
    )
    thumbnail_px: int = Field(
        256,
        ge=16,
        le=2048,
        description="Longer side of a kept thumbnail, in pixels. Default: 256, sharp in a result grid, about 12 kB.",
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds from a connection, or the first byte of a further request, to the end of its headers; then it is cut. "
        "Default: 10; headers are one packet.",
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds from the headers to the end of the body, then the answer is 408. Default: 30, the largest body at 18 "
        "Mbit/s; more for slower callers.",
    )
    write_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds in which a caller reads nothing of its answer, then the connection is cut. Default: 30; who reads "
        "slowly is not meant.",
    )
    drain_s: int = Field(
        30,
        ge=0,
        le=3600,
        description="Seconds that running requests get after SIGTERM. Default: 30, what Kubernetes grants.",
    )
    keep_alive_s: int = Field(
        75,
        ge=1,
        le=3600,
        description="Seconds an idle connection stays open: longer than the proxy in front keeps it, or that sends a request into one "
        "that is just closing, and answers 502. Default: 75, above the 60 of nginx and of the common load balancers.",
    )
    root_path: str = Field(
        "",
        description="Prefix below which a proxy publishes the service, as `/dinodex`, so that /docs and /openapi.json name the right "
        "addresses; the proxy may take it off or leave it on. Default: none, the service has its host to itself.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged. Default: info, one line a request."
    )

    @field_validator("artifact", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        if isinstance(given, str):  # as PATH is written, from the environment
            return [part for part in given.split(os.pathsep) if part]
        return (given,) if isinstance(given, Path) else given

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, given: str) -> str:
        prefix = "/" + given.strip("/") if given.strip("/") else ""
        if prefix and not _ROOT_PATH.fullmatch(prefix):
            raise ValueError("not a path of letters, digits and any of . _ ~ -, as /dinodex")
        if prefix[1:].partition("/")[0] in _OWN_PATHS:
            raise ValueError(f"a path that the service has itself ({', '.join(_OWN_PATHS)}); choose another first part")
        return prefix

    @field_validator("formats", mode="before")
    @classmethod
    def _known_formats(cls, given: object) -> object:
        return formats_named(given) if isinstance(given, str) else given

    @field_validator("value_range", mode="before")
    @classmethod
    def _range(cls, given: object) -> object:
        return ValueRange.of(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_request_images > self.queue_images:
            raise ValueError(
                "max_request_images is larger than queue_images, so a full request could never be admitted"
            )
        if 4 * self.max_body_bytes > self.request_memory_bytes:
            raise ValueError(
                "request_memory_bytes is less than four times max_body_bytes, so a full request could never be admitted"
            )
        if self.max_body_bytes > self.queue_bytes:
            raise ValueError("max_body_bytes is larger than queue_bytes, so a full request could never be admitted")
        return self

    def key(self) -> bytes | None:
        """Return the configured write key, from the variable or the file, or None.

        Raises:
            SettingsInvalid: both are given, the file cannot be read, or the key is empty or none that a header can carry.
        """
        if self.api_key is not None and self.api_key_file is not None:
            raise SettingsInvalid("both DINODEX_API_KEY and DINODEX_API_KEY_FILE are set; keep one of them.")
        if self.api_key_file is not None:
            try:
                key = read_key_file(self.api_key_file)
            except OSError as error:
                raise SettingsInvalid(
                    f"the key file {self.api_key_file} cannot be read ({error.strerror}); check DINODEX_API_KEY_FILE."
                ) from error
            except ValueError as error:
                raise SettingsInvalid(
                    f"the key file {self.api_key_file} {error}; write the key alone there, as one line of UTF-8."
                ) from error
        elif self.api_key is not None:
            try:
                key = header_key(self.api_key.get_secret_value().strip().encode(errors="surrogateescape"))
            except ValueError as error:
                raise SettingsInvalid(f"DINODEX_API_KEY {error}; put the key alone there, as one line.") from error
        else:
            return None
        if not key:
            raise SettingsInvalid("the API key is empty; put a long random word there, or leave the setting out.")
        return key

    def is_loopback(self) -> bool:
        """Say whether `host` can be reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def decode_limits(self, formats: tuple[str, ...] | None = None) -> DecodeLimits:
        """Return what an image of these formats, by default those that the service takes, may cost."""
        return DecodeLimits(
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_pixels,
            max_side=self.max_side,
            max_scans=self.max_scans,
            max_chunks=self.max_chunks,
            formats=self.formats if formats is None else formats,
        )


def load_settings(**given: object) -> Settings:
    """Read the settings: what is given here (the command line), then the environment, then the defaults.

    Values of None count as not given.

    Raises:
        SettingsInvalid: a value is missing or out of its range; the message names every such setting and no value.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{'DINODEX_' + str(entry['loc'][0]).upper() if entry['loc'] else 'settings'}: {entry['msg']}"
            for entry in error.errors(include_input=False, include_url=False)
        )
        raise SettingsInvalid(f"the settings do not hold together: {problems}.") from error
