"""A log of the disk: what a process did to the files below a folder, read from strace, and what is there when the power goes.

The model is that of ALICE (Pillai et al., "All file systems are not created equal", OSDI 2014): bytes are on the disk once their file
was flushed, names once their directory was. Until then each write may be there, missing or torn, and of the changes of a directory's
names any prefix may be there. What was said to a person (the lines written to standard output) tells what must be there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from random import Random

CALLS = "openat,creat,write,writev,pwrite64,pwritev,fsync,fdatasync,ftruncate,truncate,rename,renameat,renameat2,unlink,unlinkat"
CALLS += ",mkdir,mkdirat,rmdir,lseek,close,link,linkat,symlink,fallocate,sync_file_range,sendfile,copy_file_range"
# The folder itself is a name in its parent, and those who make it must flush that too.
STRACE = ["strace", "-f", "-qq", "-y", "-xx", "-s", "4194304", "--seccomp-bpf", "-e", f"trace={CALLS}"]
SECTOR = 512  # bytes that a disk writes whole
UNMODELLED = {"writev", "pwritev", "link", "linkat", "symlink", "fallocate", "sendfile", "copy_file_range", "truncate"}
SHARED_MEMORY = "-shm"  # SQLite's index of the log: written through memory, made anew at each start


@dataclass(frozen=True)
class Call:
    """A call that succeeded, when it returned."""

    name: str
    path: str  # of the file or directory, "" where it has none
    data: bytes = b""
    at: int = 0  # offset of a write, size after a resize
    other: str = ""  # the target of a rename
    flags: str = ""


_LINE = re.compile(r"(\d+)\s+(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)(.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2}|[^>\\])*)>")


def read_log(log: Path) -> list[Call]:
    """Return the calls of a process in the order in which they returned."""
    begun: dict[str, str] = {}  # by thread
    calls: list[Call] = []
    positions: dict[str, int] = {}  # by descriptor
    for line in log.read_text().splitlines():
        if not (found := _LINE.fullmatch(line)):
            continue
        thread, text = found.groups()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if found := _RESUMED.fullmatch(text):
            text = begun.pop(thread) + found[2]
        if (found := _CALL.fullmatch(text)) and int(found[3]) >= 0:
            calls += _call(found[1], found[2], int(found[3]), found[4], positions)
    return calls


def _call(name: str, arguments: str, result: int, after: str, positions: dict[str, int]) -> list[Call]:
    strings = [bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(arguments)]
    names = [text.decode() for text in strings] if name not in ("write", "pwrite64") else []
    descriptor = _DESCRIPTOR.match(arguments)
    path = _unescaped(descriptor[2]) if descriptor else ""
    rest = arguments.rsplit(", ", 1)[-1]
    match name:
        case "openat" | "creat":
            opened = _DESCRIPTOR.match(f"{result}{after}")
            positions[str(result)] = 0
            return [Call("open", _unescaped(opened[2]) if opened else names[0], flags=arguments)]
        case "lseek":
            positions[descriptor[1] if descriptor else ""] = result
            return []
        case "write":
            number = descriptor[1] if descriptor else arguments.split(",")[0]
            at = positions.get(number, 0)
            positions[number] = at + result
            return [Call("say" if number == "1" else "write", path, strings[0][:result], at)]
        case "pwrite64":
            return [Call("write", path, strings[0][:result], int(rest))]
        case "ftruncate":
            return [Call("resize", path, at=int(rest))]
        case "fsync" | "fdatasync":
            return [Call("sync", path)]
        case "rename" | "renameat" | "renameat2":
            return [Call("rename", names[0], other=names[1])]
        case "unlink" | "unlinkat" | "rmdir":
            return [Call("unlink", _full(names[0], path))]
        case "mkdir" | "mkdirat":
            return [Call("mkdir", names[0])]
        case "close":
            return []
    return [Call(name, path or (names[0] if names else ""))]


def _unescaped(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode() if text.startswith("\\x") else text


def _full(name: str, folder: str) -> str:
    """Return the path of a name that may be relative to an open directory, as `shutil.rmtree` gives it."""
    return name if name.startswith("/") or not folder else f"{folder}/{name}"


@dataclass
class File:
    """A file: what is on the disk of it, and what was done to it since its last flush."""

    synced: bytes = b""
    pending: list[Call] = field(default_factory=list)

    def sync(self) -> None:
        self.synced, self.pending = bytes(self.after(self.pending)), []

    def after(self, calls: list[Call]) -> bytearray:
        data = bytearray(self.synced)
        for call in calls:
            if call.name == "resize":
                del data[call.at :]
                data.extend(bytes(call.at - len(data)))
            else:
                data.extend(bytes(max(0, call.at - len(data))))
                data[call.at : call.at + len(call.data)] = call.data
        return data


@dataclass
class Disk:
    """The files below `root`, as the process sees them (`names`), and as the disk has them (`synced` and what is pending)."""

    root: str
    names: dict[str, File | None] = field(default_factory=dict)  # None for a directory
    synced: dict[str, File | None] = field(default_factory=dict)
    pending: dict[str, list[tuple[str, str, File | None]]] = field(
        default_factory=dict
    )  # by directory: verb, path, file

    def apply(self, call: Call) -> None:
        inside = call.path.startswith(self.root + "/") and not call.path.endswith(SHARED_MEMORY)
        if call.path == self.root and call.name == "sync":
            self._sync_names(self.root)
        if not inside:
            return
        assert call.name not in UNMODELLED, f"{call.name} is not modelled"
        match call.name:
            case "open" if call.path not in self.names and "O_CREAT" in call.flags:
                self._change("add", call.path, File())
            case "open" if "O_TRUNC" in call.flags:
                self._file(call.path).pending.append(Call("resize", call.path))
            case "write" | "resize":
                self._file(call.path).pending.append(call)
            case "sync" if self.names.get(call.path) is None:
                self._sync_names(call.path)
            case "sync":
                self._file(call.path).sync()
            case "mkdir":
                self._change("add", call.path, None)
            case "unlink":
                self._change("remove", call.path, None)
            case "rename":
                self._rename(call.path, call.other)

    def _file(self, path: str) -> File:
        file = self.names[path]
        assert file is not None
        return file

    def _change(self, verb: str, path: str, file: File | None) -> None:
        _apply(self.names, verb, path, file)
        self.pending.setdefault(str(PurePosixPath(path).parent), []).append((verb, path, file))

    def _rename(self, old: str, new: str) -> None:
        moved = {path: file for path, file in self.names.items() if path == old or path.startswith(old + "/")}
        for path in moved:
            del self.names[path]
        self.names |= {new + path[len(old) :]: file for path, file in moved.items()}
        self.pending.setdefault(str(PurePosixPath(new).parent), []).append((f"move {old}", new, None))
        for path in [path for path in self.pending if path == old or path.startswith(old + "/")]:
            # names not yet flushed in a directory that moves go with it
            changed = self.pending.pop(path)
            self.pending[new + path[len(old) :]] = [(v, new + p[len(old) :], f) for v, p, f in changed]

    def _sync_names(self, folder: str) -> None:
        for change in self.pending.pop(folder, []):
            _apply(self.synced, *change)

    def crashed(self, draw: Random, kept: float) -> dict[str, bytes | None]:
        """Return what may be on the disk: of what was not flushed, each change is there with probability `kept`."""
        names = dict(self.synced)
        for folder in sorted(self.pending):
            for change in self.pending[folder]:
                if draw.random() >= kept:
                    break
                _apply(names, *change)
        reachable = {path for path in names if self._reachable(path, names)}
        return {path: self._content(names[path], draw, kept) for path in sorted(reachable)}

    def _reachable(self, path: str, names: dict[str, File | None]) -> bool:
        parent = str(PurePosixPath(path).parent)
        return parent == self.root or (parent in names and self._reachable(parent, names))

    @staticmethod
    def _content(file: File | None, draw: Random, kept: float) -> bytes | None:
        if file is None:
            return None
        there = []
        for call in file.pending:
            if draw.random() < kept:
                there.append(call)
            elif call.data and 0 < kept < 1 and draw.random() < 0.5:  # torn: some of its sectors
                first = SECTOR * draw.randint(0, len(call.data) // SECTOR)
                there.append(Call("write", call.path, call.data[:first], call.at))
        return bytes(file.after(there))


def _apply(names: dict[str, File | None], verb: str, path: str, file: File | None) -> None:
    if verb == "add":
        names[path] = file
    elif verb == "remove":
        names.pop(path, None)
    else:
        old = verb.removeprefix("move ")
        moved = {p: f for p, f in names.items() if p == old or p.startswith(old + "/")}
        for p in moved:
            del names[p]
        names |= {path + p[len(old) :]: f for p, f in moved.items()}


def restore(files: dict[str, bytes | None], root: str, folder: Path) -> None:
    """Write a crashed disk's files into a folder."""
    for path, data in files.items():  # a directory sorts before what is in it
        target = folder / Path(path).relative_to(root)
        if data is None:
            target.mkdir(parents=True)
        else:
            target.write_bytes(data)
