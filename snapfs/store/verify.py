"""Whether an index file is what LMDB wrote: looked at without LMDB, which trusts whatever page it maps.

Invariants:
  * Nothing here maps the file: a truncated or malicious one gives an error, never a signal.
  * ``check_file`` reads two pages and takes microseconds: nobody opens an index without it.
  * ``problems`` reads every page of the last commit.  A large index takes seconds, so that is a child's work, beside
    the mount (``python -m snapfs.store.verify FILE``), while a reader keeps those pages from being used again.
  * ``committed`` beside the file names the last transaction.  It is written after the commit and never synced, so it
    may be behind, but never ahead: an index that is behind it has lost a commit, though it looks whole.

What values say is not looked at here: each has its own checksum.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec
from lmdb import verify as lmdb_verify

from snapfs.errors import Corrupt, IOFailure, NotPermitted
from snapfs.store.disk import open_to_read, read_start

DATA_FILE: Final = "data.mdb"
WITNESS: Final = "committed"
HINT: Final = "unmount it, then run: snap fsck --repair"

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_PAGE_SIZES: Final = (4096, 8192, 16384, 32768)
_FLAG_META: Final = 0x08
_FLAGS_FREE: Final = 0x08
"""Of the table of free pages: ordered by integers; any other bit would change how LMDB maps the file."""
_HEADER = struct.Struct("<Q2xHHH")
_META = struct.Struct("<IIQQ")
_TABLE = struct.Struct("<IHHQQQQQ")
_END = struct.Struct("<QQ")
_META_BYTES: Final = _HEADER.size + _META.size + 2 * _TABLE.size + _END.size
_WITNESS = struct.Struct("<QI")
_NUMBER = struct.Struct("<Q")

MEMORY_BYTES_MAX: Final = 4 << 30
"""Of the child, beside a map: a byte or two a page of a sound file, far less than this."""
NICE: Final = 19
_PARENT_SECONDS: Final = 0.5
"""Between two looks whether who started a child is there."""
APART: Final = 0
"""``process_group`` of the child: Ctrl-C on a terminal is for who started it, who ends it."""
_CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})


class Meta(msgspec.Struct, frozen=True):
    """What one of the two meta pages says."""

    page_bytes: int
    last_page: int
    transaction: int
    free_root: int
    """Page where the tree of free pages begins."""
    tables_root: int
    """Page where the tree of tables begins."""


def _meta(data: bytes, number: int, page_bytes: int, path: Path) -> Meta:
    """Raises:
    Corrupt: not a meta page as snapfs's LMDB writes it.
    """

    def wanted(holds: bool, what: str) -> None:
        if not holds:
            raise Corrupt(f"{path}: meta page {number} is damaged ({what})", hint=HINT)

    wanted(len(data) == _META_BYTES, "it ends too early")
    page, flags, _, _ = _HEADER.unpack_from(data)
    magic, version, _, _ = _META.unpack_from(data, _HEADER.size)
    wanted(page == number and flags == _FLAG_META, "it is no meta page")
    wanted(magic == _MAGIC and version == _DATA_VERSION, "it is of another format")
    free = _TABLE.unpack_from(data, _HEADER.size + _META.size)
    main = _TABLE.unpack_from(data, _HEADER.size + _META.size + _TABLE.size)
    wanted(free[0] == page_bytes and free[0] in _PAGE_SIZES, "its page size is impossible")
    wanted(free[1] == _FLAGS_FREE and main[0] == 0 and main[1] == 0, "it has flags that are never set")
    last_page, transaction = _END.unpack_from(data, _META_BYTES - _END.size)
    wanted(last_page >= 1 and transaction % 2 == (number if transaction else 0), "its numbers are impossible")
    return Meta(page_bytes, last_page, transaction, free[-1], main[-1])


def read_metas(path: Path) -> tuple[Meta, Meta, int]:
    """Both meta pages, and the file's size.

    Raises:
        Corrupt: the file is missing, or one of the pages is damaged, or they do not fit each other.
    """
    for name in ("data.mdb", "lock.mdb"):  # LMDB would write through a link, and wait for a pipe
        file_path = path.parent / name
        if os.path.lexists(file_path) and not stat.S_ISREG(file_path.lstat().st_mode):
            raise Corrupt(f"{file_path}: something else is in the place of the index", hint="who put it there?")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(_META_BYTES)
            page_bytes = struct.unpack_from("<I", first, _HEADER.size + _META.size)[0] if len(first) > 64 else 0
            zero = _meta(first, 0, page_bytes, path)
            file.seek(page_bytes)
            one = _meta(file.read(_META_BYTES), 1, page_bytes, path)
    except FileNotFoundError as error:
        raise Corrupt(f"{path}: the index is missing", hint=HINT) from error
    except PermissionError as error:
        raise NotPermitted(
            f"{path}: permission denied", hint="do all files of the store belong to who uses it?"
        ) from error
    except OSError as error:
        raise Corrupt(f"{path}: the index cannot be read ({error.strerror})", hint=HINT) from error
    if abs(zero.transaction - one.transaction) != (1 if zero.transaction or one.transaction else 0):
        raise Corrupt(f"{path}: its two meta pages are not of successive transactions", hint=HINT)
    return zero, one, size


def sound_metas(path: Path) -> list[Meta]:
    """Those meta pages that can be read, the newest first; for who reads a damaged file.

    Raises:
        OSError: the file cannot be read.
    """
    found = []
    with open_to_read(path) as file:
        for number in (0, 1):
            for page_bytes in _PAGE_SIZES:
                file.seek(number * page_bytes)
                try:
                    found.append(_meta(file.read(_META_BYTES), number, page_bytes, path))
                    break
                except Corrupt:
                    continue
    return sorted(found, key=lambda meta: -meta.transaction)


def check_file(path: Path) -> int:
    """Refuse a data file that LMDB must not map; returns how many pages it uses.

    Raises:
        Corrupt: missing, truncated, no index, or behind its last commit.
    """
    noted = read_witness(path.parent)  # first: somebody may commit meanwhile
    zero, one, size = read_metas(path)
    last_page = max(zero.last_page, one.last_page)
    if size < (last_page + 1) * zero.page_bytes:
        raise Corrupt(
            f"{path}: truncated ({size} bytes of at least {(last_page + 1) * zero.page_bytes})", hint=HINT
        )  # fmt: skip
    newest = max(zero.transaction, one.transaction)
    if newest < noted:
        raise Corrupt(f"{path}: the index has lost its last commit, or is an old copy", hint=HINT)
    return last_page + 1


# -- the last commit's number


def read_witness(directory: Path) -> int:
    """The last transaction that was noted; 0 if none is, or what is there is damaged."""
    try:
        data = read_start(directory / WITNESS, _WITNESS.size + 1)
    except OSError:
        return 0
    if len(data) != _WITNESS.size:
        return 0
    number, checksum = _WITNESS.unpack(data)
    return int(number) if checksum == crc32(data[:8]) else 0


def witness(transaction: int) -> bytes:
    """Content of ``committed`` when the transaction is durable."""
    packed = transaction.to_bytes(8, "little")
    return packed + crc32(packed).to_bytes(4, "little")


# -- structure


class _Verifier(lmdb_verify._Verifier):
    """That of lmdb, which takes it for damage that LMDB keeps the pages of a long value when, in one transaction, a
    shorter one is put in its place."""

    def _bigdata(
        self, ctx: dict[str, Any], pgno: int, i: int, buf: Any, doff: int, dsize: int, want_bytes: bool
    ) -> bytes | None:
        """``dsize``: of the value, whose pages' number is at ``doff``."""
        kept_bytes = 0
        if doff + _NUMBER.size <= self.psize:
            first = _NUMBER.unpack_from(buf, doff)[0]
            header = self.read_page(first) if first < self.next_pgno else None  # type: ignore[no-untyped-call]
            pages = self._pg_pages(header, 0) if header is not None else 0  # type: ignore[no-untyped-call]
            if first + pages <= self.next_pgno:
                kept_bytes = pages * self.psize - self.hdrsz
        size = max(dsize, kept_bytes)
        data: bytes | None = super()._bigdata(ctx, pgno, i, buf, doff, size, want_bytes)  # type: ignore[no-untyped-call]
        return None if data is None else data[:dsize]


def problems(path: Path) -> list[str]:
    """What is wrong with the structure of the file's last commit: a readable line each; empty if nothing is.

    Raises:
        NotPermitted: we may not read it.
    """
    try:
        for last in (False, False, True):
            try:
                check_file(path)
                break
            except Corrupt:  # or the two pages were read before and after a commit
                if last:
                    raise
        with path.open("rb") as file:
            verifier = _Verifier(file, file.seek(0, os.SEEK_END))  # type: ignore[no-untyped-call]
            return [str(line) for line in verifier.verify()]  # type: ignore[no-untyped-call]
    except Corrupt as error:
        return [error.message]
    except NotPermitted:  # which says nothing of the file
        raise
    except Exception as error:  # whatever such a file makes it raise: it is not sound
        return [f"it cannot be followed ({type(error).__name__}: {error})"]


def check_structure(path: Path) -> None:
    """Raises:
    Corrupt: the structure is damaged.
    """
    found = problems(path)
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Corrupt(f"{path}: the index is damaged ({found[0]}{more})", hint=HINT)


def command(path: Path) -> list[str]:
    """Of the child that looks at a file's structure: it prints ``problems`` as JSON and ends with 0."""
    return [sys.executable, "-P", "-m", "snapfs.store.verify", os.fspath(path)]


def answer(code: int, output: bytes) -> list[str]:
    """What a child said; if the file made it crash, that is a problem of the file too.

    Raises:
        IOFailure: it was ended (with all that a terminal or a service stops, or for want of memory), or could not
            begin: that says nothing of the file.
    """
    if code == 0:
        return [str(line) for line in json.loads(output)]
    if -code in _CRASHES:
        return [f"who looked at it crashed ({signal.Signals(-code).name})"]
    raise IOFailure(f"the index could not be looked over: who did it ended early ({code})", hint="try it again")


def end_with_parent() -> None:
    """What a child finds is of use only to who started it: it does not outlive a daemon that was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    end_with_parent()
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    sys.stdout.write(json.dumps(problems(Path(sys.argv[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
