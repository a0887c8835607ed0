"""The audit log's files: lines, their chain, reading them by pages, verifying them.  Writes nothing.

Invariants:

- A line is the JSON of an ``AuditEntry`` with one more field at its end, ``chain``: 64 hex digits, the BLAKE3 hash of
  the line before's chain (64 zeros for the first line of all) and of the entry's JSON.
- ``audit-<sequence>.jsonl``, by their numbers, then ``audit.jsonl``, are the log in order.
- Only whole lines are read: what stands after the last newline is being written, or a crash left it.
- Memory does not grow with the log, nor time for one page: ``SCAN_BYTES_MAX``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeVar

import msgspec
from blake3 import blake3

from snapfs.api import AuditEntry
from snapfs.errors import Invalid, IOFailure, NotPermitted
from snapfs.store.disk import open_to_read

DIRECTORY: Final = "audit"
CURRENT: Final = "audit.jsonl"
LINE_BYTES_MAX: Final = 64 * 1024
"""More than any line of ours: the texts of an entry are cut at a few KiB (JSON may write a byte as six)."""

PAGE_ENTRIES_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 1 << 20
"""Of the lines of one page: with their framing they fit into one message."""

SCAN_BYTES_MAX: Final = 64 << 20
"""Read for one page, whatever its filters leave of it: about half a second."""

FINDINGS_MAX: Final = 100
"""Of ``verify``: one cut or replaced file can make each line a finding."""

DAMAGED: Final = "DAMAGED"
"""Result of the entry that ``page`` shows for a line that cannot be read."""

T = TypeVar("T")

_NO_CHAIN: Final = "0" * 64
_CHAIN: Final = b',"chain":"'
_TAIL_BYTES: Final = len(_CHAIN) + 64 + len(b'"}')
_ROTATED: Final = re.compile(r"audit-(\d{16})\.jsonl")
_TOKEN: Final = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
"""(sequence of a file's first entry, offset in the file)."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chain stands: note it elsewhere, and a log that was cut or made anew shows."""

    sequence: int = 0
    chain: str = _NO_CHAIN


class End(msgspec.Struct, frozen=True, kw_only=True):
    """What the end of the current file says."""

    size: int = 0
    """Of its whole lines, bytes."""
    torn_bytes: int = 0
    """After them."""
    damaged: bool = False
    """Its last line cannot be read."""
    head: Head | None = None
    first_sequence: int = 0
    """Of its first line; 0 without one."""


class AuditPage(NamedTuple):
    entries: list[AuditEntry]
    next_page_token: str
    """Empty on the last page."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What ``verify`` found."""

    entries: int
    findings: list[str]
    """One line each; empty: the log is whole."""
    head: Head
    """Of the last line."""


# -- lines


def cut(text: str, bytes_max: int) -> str:
    """The text in at most that many bytes of UTF-8."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= bytes_max:
        return data.decode()
    return data[: bytes_max - 3].decode(errors="ignore") + "..."


def encode(entry: AuditEntry, head: Head) -> tuple[bytes, Head]:
    """The line, newline included, and the head after it."""
    body = msgspec.json.encode(entry)
    chain = _chained(head.chain, body)
    return b'%s%s%s"}\n' % (body[:-1], _CHAIN, chain.encode()), Head(sequence=entry.sequence, chain=chain)


def _chained(before: str, body: bytes) -> str:
    return blake3(before.encode() + body).hexdigest()


def _decode(line: bytes) -> tuple[AuditEntry, bytes, str] | None:
    """(entry, its JSON without the chain, chain) of a line without its newline; None if it is damaged."""
    body, tail = line[:-_TAIL_BYTES] + b"}", line[-_TAIL_BYTES:]
    if not tail.startswith(_CHAIN) or not tail.endswith(b'"}'):
        return None
    chain = tail[len(_CHAIN) : -2]
    try:
        return msgspec.json.decode(body, type=AuditEntry), body, chain.decode("ascii")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _lines(file: _File, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """(offset after it, line without its newline) of the whole lines from an offset on; of a line that is longer than
    any of ours, the beginning.

    Raises:
        _Rotated: the file goes by another name by now.
    """
    with file.open() as opened:
        opened.seek(offset)
        while line := opened.readline(LINE_BYTES_MAX):
            beginning = line
            offset += len(line)
            while not line.endswith(b"\n") and (line := opened.readline(LINE_BYTES_MAX)):
                offset += len(line)
            if line:
                yield offset, beginning.removesuffix(b"\n")


# -- files


def rotated_name(sequence: int) -> str:
    return f"audit-{sequence:016d}.jsonl"


class _Rotated(Exception):
    """The log went on in a new file between listing and opening: list again."""


class _File(NamedTuple):
    path: Path
    inode: int

    def open(self) -> BinaryIO:
        try:
            opened = open_to_read(self.path)
        except FileNotFoundError:
            raise _Rotated from None
        if os.fstat(opened.fileno()).st_ino != self.inode:
            opened.close()
            raise _Rotated
        return opened


def _files(directory: Path) -> list[_File]:
    """In order, the current one last."""
    current = directory / CURRENT
    try:  # before the others: if it gets its final name meanwhile, it is found as one of them or not at all
        last = [_File(current, current.stat().st_ino)]
    except FileNotFoundError:
        last = []
    try:
        paths = sorted(path for path in directory.iterdir() if _ROTATED.fullmatch(path.name))
    except FileNotFoundError:
        return []
    return [_File(path, path.stat().st_ino) for path in paths] + last


def _first_sequence(file: _File) -> int:
    """Of the first line that can be read; 0 without one."""
    for _, line in _lines(file):
        if (decoded := _decode(line)) is not None:
            return decoded[0].sequence
    return 0


def end_of(path: Path) -> End:
    """What stands at the end of a file; of a missing one, nothing.

    Raises:
        OSError: as the disk.
    """
    try:
        with open_to_read(path) as file:
            inode = os.fstat(file.fileno()).st_ino
            length = file.seek(0, os.SEEK_END)
            start, tail = length, b""
            while tail.count(b"\n") < 2 and start:  # mostly once: what a crash left may be long
                start = max(0, length - 2 * max(length - start, LINE_BYTES_MAX))
                file.seek(start)
                tail = file.read(length - start)
    except FileNotFoundError:
        return End()
    whole = tail.rfind(b"\n") + 1
    size = start + whole
    last = _decode(tail[: whole - 1].rpartition(b"\n")[2]) if size else None
    return End(
        size=size,
        torn_bytes=length - size,
        damaged=bool(size) and last is None,
        head=None if last is None else Head(sequence=last[0].sequence, chain=last[2]),
        first_sequence=_first_sequence(_File(path, inode)) if size else 0,
    )


def last_head(directory: Path) -> Head:
    """Of the last line that can be read in all files.

    Raises:
        OSError: as the disk.
    """
    for file in reversed(_files(directory)):
        if (head := end_of(file.path).head) is not None:
            return head
        found = None
        for _, line in _lines(file):  # only of a file whose last line is damaged
            found = _decode(line) or found
        if found is not None:
            return Head(sequence=found[0].sequence, chain=found[2])
    return Head()


# -- reading


def page(directory: Path, *, from_ns: int = 0, caller: str = "", page_size: int = 0, page_token: str = "") -> AuditPage:
    """Entries, oldest first.

    A line that is damaged is an entry too, whatever the filters: sequence 0, result ``DAMAGED``.  A page may have
    fewer entries than asked for, or none, and not be the last.

    Args:
        from_ns: only those made at this time or later.  (Files last written before are passed over.)
        caller: only those of this caller; empty: all.
        page_size: at most this many; 0: 1,000, which is also the most.
        page_token: of the page before; empty: from the beginning.

    Raises:
        Invalid: a bad size or token.
        IOFailure, NotPermitted: the disk.
    """
    if page_size < 0:
        raise Invalid(f"a page has at least one entry, not {page_size}", hint="0 is as many as possible")
    count_max = min(page_size or PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX)

    def read() -> AuditPage:
        files = _files(directory)
        if page_token:
            files, offset = _resume(files, page_token)
        else:
            files, offset = [file for file in files if file.path.stat().st_mtime_ns >= from_ns], 0
        return _fill(files, offset, from_ns, caller, count_max)

    return _read(directory, read)


def _read(directory: Path, read: Callable[[], T]) -> T:
    """What ``read`` returns, read again when the log went on in a new file meanwhile."""
    while True:
        try:
            return read()
        except _Rotated:
            continue
        except PermissionError as error:
            raise NotPermitted(f"{directory}: permission denied", hint="the log is the store owner's") from error
        except OSError as error:
            raise IOFailure(f"{error.filename or directory}: {error.strerror or error}") from error


def _fill(files: list[_File], offset: int, from_ns: int, caller: str, count_max: int) -> AuditPage:
    entries: list[AuditEntry] = []
    scanned = listed = 0
    for file in files:
        for after, line in _lines(file, offset):
            scanned += len(line)
            decoded = _decode(line)
            entry = _DAMAGED_ENTRY if decoded is None else decoded[0]
            wanted = entry.time_ns >= from_ns and caller in ("", entry.caller)
            if wanted or decoded is None:
                entries.append(entry)
                listed += len(line)
            if len(entries) >= count_max or listed >= PAGE_BYTES_MAX or scanned >= SCAN_BYTES_MAX:
                return AuditPage(entries, f"{_first_sequence(file):x}-{after:x}")
        offset = 0
    return AuditPage(entries, "")


_DAMAGED_ENTRY: Final = AuditEntry(sequence=0, time_ns=0, caller="", peer="", method="", request="", result=DAMAGED)


def _resume(files: list[_File], token: str) -> tuple[list[_File], int]:
    """The files from that of the token on, and the offset in the first of them.  A file goes by the sequence of its
    first entry: its name changes when the log goes on in the next."""
    match = _TOKEN.fullmatch(token)
    if match is not None:
        first, offset = int(match[1], 16), int(match[2], 16)
        for place, file in enumerate(files):
            if _first_sequence(file) == first and _begins_line(file, offset):
                return files[place:], offset
    raise Invalid("the page token is not one of this log", hint="begin again without one")


def _begins_line(file: _File, offset: int) -> bool:
    with file.open() as opened:
        if offset > os.fstat(opened.fileno()).st_size:
            return False
        opened.seek(max(offset - 1, 0))
        return offset == 0 or opened.read(1) == b"\n"


# -- verifying


def verify(store: Path) -> Verified:
    """Follow the chain through all of a store's log; also beside the daemon that writes it.

    Raises:
        IOFailure, NotPermitted: the disk.
    """
    directory = store / DIRECTORY
    return _read(directory, lambda: _follow(_files(directory)))


def _follow(files: list[_File]) -> Verified:
    head, count, findings = Head(), 0, list[str]()
    for file in files:
        for number, (_, line) in enumerate(_lines(file), 1):
            where, decoded = f"{file.path.name}, line {number}", _decode(line)
            count += 1
            if decoded is None:
                findings.append(f"{where}: cannot be read")
            else:
                entry, body, chain = decoded
                if entry.sequence != head.sequence + 1:
                    findings.append(f"{where}: entry {entry.sequence} follows {head.sequence}")
                if _chained(head.chain, body) != chain:
                    findings.append(f"{where}: entry {entry.sequence}, or the one before it, was changed")
                head = Head(sequence=entry.sequence, chain=chain)
            if len(findings) >= FINDINGS_MAX:
                return Verified(entries=count, findings=[*findings, "and maybe more"], head=head)
    return Verified(entries=count, findings=findings, head=head)
