"""The program that works on small files while it is timed: tight loops over system calls, a process of its own.

It imports nothing but what Python's start has loaded anyway, and is the same for every file system.  Each line that it
reads is the name of an operation; it answers with the seconds that it took.  All paths are relative to the directory
that it is in: its argument.
    usage: client.py DIRECTORY FILES FILES_A_DIRECTORY BYTES
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable


class Client:
    """Files of one tree, one operation on each of them at a time."""

    def __init__(self, files: int, directory_files: int, size_bytes: int) -> None:
        self._directories = [f"{number:04d}" for number in range((files - 1) // directory_files + 1)]
        self._paths = [f"{number // directory_files:04d}/{number:06d}" for number in range(files)]
        self._absent = [path + "x" for path in self._paths]
        self._renamed = [path + "r" for path in self._paths]
        self._payload = b"0123456789abcdef" * (size_bytes // 16)
        self._size = max(1, size_bytes)

    def mkdir(self) -> None:
        for path in self._directories:
            os.mkdir(path)

    def create(self) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        for path in self._paths:
            os.close(os.open(path, flags, 0o644))

    def write(self) -> None:
        for path in self._paths:
            descriptor = os.open(path, os.O_WRONLY)
            os.write(descriptor, self._payload)
            os.close(descriptor)

    def stat(self) -> None:
        for path in self._paths:
            os.stat(path)

    def absent(self) -> None:
        for path in self._absent:
            try:
                os.stat(path)
            except FileNotFoundError:
                continue
            raise SystemExit(f"{path} is there")

    def read(self) -> None:
        for path in self._paths:
            descriptor = os.open(path, os.O_RDONLY)
            data = os.read(descriptor, self._size)
            os.close(descriptor)
            if len(data) != len(self._payload):
                raise SystemExit(f"{path} has {len(data)} bytes")

    def readdir(self) -> None:
        count = 0
        for path in self._directories:
            with os.scandir(path) as entries:
                for entry in entries:
                    entry.stat(follow_symlinks=False)
                    count += 1
        if count != len(self._paths):
            raise SystemExit(f"{count} files were listed of {len(self._paths)}")

    def rename(self) -> None:
        for path, target in zip(self._paths, self._renamed, strict=True):
            os.rename(path, target)

    def unlink(self) -> None:
        for path in self._renamed:
            os.unlink(path)

    def rmdir(self) -> None:
        for path in self._directories:
            os.rmdir(path)


def main() -> None:
    os.chdir(sys.argv[1])
    client = Client(*map(int, sys.argv[2:5]))
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        operation: Callable[[], None] = getattr(client, line.strip())
        begun = time.perf_counter()
        operation()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
