"""A pool of decoder processes: encoded image in, the network's pixels and a thumbnail out.

A crash, a hang or a bomb costs that image alone. Each decoder is a child (`service/embedding/decoder_worker.py`) that one thread uses
at a time. It starts with its first image, which waits a fifth of a second for it, and again as soon as it had to be ended, so that no
other image waits.
"""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from backbone import errors
from backbone.decode import DecodeLimits
from backbone.errors import DecoderCrashed, DecodeTooSlow, ImageRefused
from backbone.interpreter import module_command, module_environment
from backbone.preprocess import Preprocess
from service.embedding.decoder_worker import ANSWER, DECODED, REQUEST, SQUARE, STARTED, THUMBNAIL, Task
from service.errors import DecoderUnavailable

# What a child may know of our environment: where programs and libraries are, and no secret.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


_ENDING_S = 1.0  # between a child's socket and its end, on a busy machine
_LAST_WORDS = 500  # characters of a child's last line that are logged
SPARE_ANSWER_BYTES = 64 * 1024  # of an answer, beyond its pixels: a refusal's words, or a thumbnail's header


log = structlog.get_logger("service")


@dataclass(frozen=True)
class Decoded:
    """A decoded image, as far as it was asked for: the pixels [crop, crop, 3] uint8, and a JPEG that a person can look at."""

    square: NDArray[np.uint8] | None
    thumbnail: bytes | None


class Decoders:
    """A few decoder processes. Any thread may call `decode`; it waits where all are busy."""

    def __init__(
        self,
        preprocess: Preprocess,
        limits: DecodeLimits,
        thumbnail_px: int,
        decode_workers: int,
        decode_timeout_s: float,
    ) -> None:
        self._crop = preprocess.crop
        task = Task(preprocess.to_dict(), asdict(limits), thumbnail_px)
        self._all = [_Decoder(task, decode_timeout_s) for _ in range(decode_workers)]
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        for decoder in self._all:
            self._idle.put(decoder)

    def decode(self, image: bytes, square: bool = True, thumbnail: bool = False) -> Decoded:
        """Decode an image to what is wanted of it.

        Raises:
            ImageRefused: a subclass that says why; DecodeTooSlow and DecoderCrashed say it of the process.
            DecoderUnavailable: a process has to be started, and cannot be now, or ends at its start.
        """
        decoder = self._idle.get()
        try:
            first, second = decoder.ask(square * SQUARE | thumbnail * THUMBNAIL, image)
        finally:
            self._idle.put(decoder)
        pixels = np.frombuffer(first, np.uint8).reshape(self._crop, self._crop, 3) if square else None
        return Decoded(pixels, bytes(second) if thumbnail else None)

    @property
    def decode_workers(self) -> int:
        """Return how many images can be decoded at a time."""
        return len(self._all)

    @property
    def restarts(self) -> int:
        """Return how many processes had to be started anew."""
        return sum(decoder.restarts for decoder in self._all)

    @property
    def trouble(self) -> str | None:
        """Return why processes end at their start, in words for strangers; None while one would decode."""
        return next((decoder.trouble for decoder in self._all if decoder.trouble is not None), None)

    def close(self) -> None:
        """End the processes. Nobody may be decoding."""
        for decoder in self._all:
            decoder.close()


class _Decoder:
    """One child and the socket to it."""

    def __init__(self, task: Task, decode_timeout_s: float) -> None:
        self._task = json.dumps(asdict(task))
        self._most = 3 * (task.preprocess["crop"] ** 2 + task.thumbnail_px**2) + SPARE_ANSWER_BYTES
        self._decode_timeout_s = decode_timeout_s
        self.restarts = 0
        self.trouble: str | None = None
        self._started: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def ask(self, wanted: int, image: bytes) -> tuple[memoryview, memoryview]:
        """Return the two parts of an answer."""
        if self._started is not None and self._child.poll() is not None:  # between two images: this one is not to blame
            self._restart()
        if self._started is None:
            self._start()
        end = time.monotonic() + self._decode_timeout_s
        try:
            self._socket.settimeout(self._decode_timeout_s)
            self._socket.sendall(REQUEST.pack(wanted, len(image)))
            self._socket.sendall(image)
            kind, first, second = ANSWER.unpack(self._receive(ANSWER.size, end))
            if first + second > self._most:  # whatever it has become, we do not take what it announces on trust
                raise ConnectionAbortedError
            parts = memoryview(self._receive(first + second, end))
        except TimeoutError:
            self._restart()
            raise DecodeTooSlow(
                f"the image was not decoded within {self._decode_timeout_s:g} s; send a smaller or simpler one."
            ) from None
        except OSError:
            self._check_that_it_started()
            self._restart()
            raise DecoderCrashed(
                "the decoder's process ended at this image; send another one, or this one written anew."
            ) from None
        self.trouble = None
        if kind != DECODED:
            raise _refusal(bytes(parts[:first]), bytes(parts[first:]))
        return parts[:first], parts[first:]

    def close(self) -> None:
        """End the child."""
        if self._started is None:
            return
        self._socket.close()
        self._child.kill()
        self._child.wait()
        assert self._child.stderr is not None
        self._child.stderr.close()
        self._started = None

    @property
    def _child(self) -> subprocess.Popen[bytes]:
        assert self._started is not None
        return self._started[0]

    @property
    def _socket(self) -> socket.socket:
        assert self._started is not None
        return self._started[1]

    def _receive(self, length: int, end: float) -> bytearray:
        data = bytearray(length)
        view, got = memoryview(data), 0
        while got < length:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            more = self._socket.recv_into(view[got:])
            if not more:
                raise ConnectionResetError
            got += more
        return data

    def _check_that_it_started(self) -> None:
        """Raise DecoderUnavailable where the child ended before it took an image: every image would be refused like this one."""
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_ENDING_S)  # so that it is not our signal that is told of
        self._child.kill()
        code = self._child.wait()
        assert self._child.stderr is not None
        said = self._child.stderr.read()
        if said.endswith(STARTED):
            return
        self.close()
        lines = said.decode(errors="replace").strip().splitlines()
        words = lines[-1][:_LAST_WORDS] if lines else f"exit status {code}"
        error = re.match(r"\w+(?=: )", words)  # an exception's name tells no secret, and its message may
        trouble = f"the decoder's process ends at its start ({error[0] if error else f'exit status {code}'}); the log says why."
        if trouble != self.trouble:
            log.error("decoder_not_started", detail=words)
        self.trouble = trouble
        raise DecoderUnavailable(trouble)

    def _restart(self) -> None:
        """End the child and start another one; where that cannot be, the next image tries again."""
        self.close()
        self.restarts += 1
        with suppress(DecoderUnavailable):
            self._start()

    def _start(self) -> None:
        try:
            self._started = self._spawned()
        except OSError as error:  # too many processes, or open files, of ours or of the system's
            raise DecoderUnavailable("the system has no room for a decoder now; come back in a second.") from error

    def _spawned(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment["OPENBLAS_NUM_THREADS"] = "1"
        command = module_command("service.embedding.decoder_worker", self._task, str(os.getpid()))
        with ExitStack() as unless_started, theirs:
            unless_started.enter_context(ours)
            child = subprocess.Popen(  # noqa: S603 - our own words
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # which the child leaves once it has started, so that nobody has to attend to it
                env=module_environment(environment),
            )
            unless_started.pop_all()
        return child, ours


def _refusal(name: bytes, message: bytes) -> ImageRefused:
    """Return the refusal that a child tells of."""
    kind = getattr(errors, name.decode(errors="replace"), None)
    if not (isinstance(kind, type) and issubclass(kind, ImageRefused)):
        kind = DecoderCrashed
    return kind(message.decode(errors="replace"))
