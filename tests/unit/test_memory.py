"""The C library's heap, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ctypes, re, threading
import trio
from snapfs.daemon import memory

MIB = 1 << 20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.mallopt(-3, 64 * MIB)  # M_MMAP_THRESHOLD: all of it on the heap, as glibc does by itself after a while

def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

async def main():
    heap = memory.Heap()
    heap.keep_together()
    looks, look = [], heap.other_bytes
    heap.other_bytes = lambda: looks.append(1) or look()
    memory.EVERY_SECONDS = 0.01
    taken = []

    def take():
        for _ in range(200):
            taken.append(libc.malloc(MIB))
            ctypes.memset(taken[-1], 1, MIB)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    full = resident()
    kept = taken.pop()  # at the heap's end: free() alone gives nothing back
    for block in taken:
        libc.free(block)
    assert heap.idle_bytes() > 150 * MIB, heap.idle_bytes()
    assert resident() > full - 50 * MIB
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heap.give_back)
            for _ in range(3):  # what was given back is taken and let go again: no more is idle than before
                while resident() > full - 150 * MIB:
                    await trio.sleep(0.01)
                looked = len(looks)
                while len(looks) < looked + 2:  # so it has come back from giving back
                    await trio.sleep(0.01)
                taken = []
                take()
                again = taken.pop()
                for block in taken:
                    libc.free(block)
                libc.free(again)
                assert resident() > full - 50 * MIB
            nursery.cancel_scope.cancel()
    libc.free(kept)

trio.run(main)
"""


def test_what_is_not_in_use_goes_back_to_the_host() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
