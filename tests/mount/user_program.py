"""What a test lets another user do: a program that becomes that user in a directory and then does what it is told.

``python user_program.py UID GID [GROUP...]``: standard input has one JSON list a line, [operation, argument...];
standard output one JSON value a line: the result, or the errno's name.  Paths are relative to the directory that it
was started in.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

OPERATIONS: dict[str, Callable[..., Any]] = {}


def operation(function: Callable[..., Any]) -> Callable[..., Any]:
    OPERATIONS[function.__name__] = function
    return function


def _with(path: str, flags: int, act: Callable[[int], Any], mode: int = 0o644) -> Any:
    file = os.open(path, flags, mode)
    try:
        return act(file)
    finally:
        os.close(file)


@operation
def read(path: str) -> str:
    return str(_with(path, os.O_RDONLY, lambda file: os.read(file, 10).decode()))


@operation
def write(path: str) -> None:
    _with(path, os.O_WRONLY, lambda file: os.write(file, b"x"))


@operation
def write_nothing(path: str) -> None:
    _with(path, os.O_WRONLY, lambda file: os.write(file, b""))


@operation
def append(path: str) -> None:
    _with(path, os.O_WRONLY | os.O_APPEND, lambda file: os.write(file, b"x"))


@operation
def write_direct(path: str) -> None:
    page = mmap.mmap(-1, 4096)
    _with(path, os.O_WRONLY | os.O_DIRECT, lambda file: os.write(file, page))


@operation
def open_truncating(path: str) -> None:
    _with(path, os.O_WRONLY | os.O_TRUNC, lambda file: None)


@operation
def open_reading_truncating(path: str) -> None:
    _with(path, os.O_RDONLY | os.O_TRUNC, lambda file: None)


@operation
def truncate(path: str) -> None:
    os.truncate(path, 3)


@operation
def truncate_up(path: str) -> None:
    os.truncate(path, 99_999)


@operation
def truncate_to_its_size(path: str) -> None:
    os.truncate(path, os.stat(path).st_size)


@operation
def ftruncate(path: str) -> None:
    _with(path, os.O_WRONLY, lambda file: os.ftruncate(file, 3))


@operation
def write_mapped(path: str) -> None:
    def act(file: int) -> None:
        with mmap.mmap(file, 4096) as pages:
            pages[0] = 65
            pages.flush()

    _with(path, os.O_RDWR, act)


@operation
def copy_range(path: str, source: str) -> None:
    def act(file: int) -> None:
        _with(source, os.O_RDONLY, lambda other: os.copy_file_range(other, file, 100))

    _with(path, os.O_WRONLY, act)


@operation
def send(path: str, source: str) -> None:
    def act(file: int) -> None:
        _with(source, os.O_RDONLY, lambda other: os.sendfile(file, other, 0, 100))

    _with(path, os.O_WRONLY, act)


@operation
def splice(path: str, _source: str) -> None:
    def act(file: int) -> None:
        out, into = os.pipe()
        os.write(into, b"hello")
        os.splice(out, file, 5)
        os.close(out)
        os.close(into)

    _with(path, os.O_WRONLY, act)


@operation
def chown(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)


@operation
def chown_to_its_owner(path: str) -> None:
    status = os.stat(path)
    os.chown(path, status.st_uid, status.st_gid)


@operation
def chmod(path: str, mode: int) -> int:
    os.chmod(path, mode)
    return stat.S_IMODE(os.stat(path).st_mode)


@operation
def utime(path: str) -> None:
    os.utime(path, (5, 5))


@operation
def touch(path: str) -> None:
    os.utime(path)


@operation
def create(path: str) -> None:
    _with(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, lambda file: None)


@operation
def open_creating(path: str) -> None:
    _with(path, os.O_WRONLY | os.O_CREAT, lambda file: None)


@operation
def unlink(path: str) -> None:
    os.unlink(path)


@operation
def rename(path: str, new: str) -> None:
    os.rename(path, new)


@operation
def link(path: str, new: str) -> None:
    os.link(path, new)


@operation
def mkdir(path: str) -> None:
    os.mkdir(path)


@operation
def rmdir(path: str) -> None:
    os.rmdir(path)


@operation
def names(path: str) -> list[str]:
    return sorted(os.listdir(path))


@operation
def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@operation
def access(path: str, how: int) -> bool:
    return os.access(path, how)


@operation
def run(path: str, *arguments: str) -> str:
    out, into = os.pipe()
    child = os.posix_spawn(path, [path, *arguments], {}, file_actions=[(os.POSIX_SPAWN_DUP2, into, 1)])
    os.close(into)
    with open(out, "rb") as output:
        told = output.read().decode().strip()
    os.waitpid(child, 0)
    return told


def answer(name: str, *arguments: Any) -> Any:
    try:
        return OPERATIONS[name](*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def main() -> None:
    uid, gid, *groups = map(int, sys.argv[1:])
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.umask(0)
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
