"""Databases with their files on the mount, whose daemon is killed in the midst of their work: what a client was told is
committed is there, and the databases' own checks find nothing.  So it is with a clone of a snapshot made meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from snapfs.testing.mounted import MountedStore

WAIT_SECONDS_MAX = 60.0


class Acknowledged:
    """Numbers that a program prints, a line each, once it has been told that they are committed."""

    def __init__(self, output: IO[bytes]) -> None:
        self.last = 0
        self._thread = threading.Thread(target=self._read, args=(output,))
        self._thread.start()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            if not line.endswith(b"\n"):  # the program was ended within it
                break
            assert int(line) == self.last + 1
            self.last += 1

    def reach(self, number: int) -> None:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self.last < number:
            assert time.monotonic() < deadline, f"{self.last} of {number} commits in {WAIT_SECONDS_MAX} s"
            assert self._thread.is_alive(), "the program ended"
            time.sleep(0.002)

    def join(self) -> None:
        self._thread.join(WAIT_SECONDS_MAX)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Killed at the latest when the test is over."""
    with process:
        try:
            yield process
        finally:
            process.kill()


# -- SQLite

SQLITE_WRITER = """
import sqlite3, sys
path, mode, synchronous = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
assert database.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
database.execute(f"pragma synchronous={synchronous}")
database.execute("create table if not exists rows (n integer primary key, filler blob)")
database.execute("create index if not exists fillers on rows (filler)")
last = database.execute("select coalesce(max(n), 0) from rows").fetchone()[0]
for n in range(1, last + 1):
    print(n)
sys.stdout.flush()
while True:
    last += 1
    with database:
        database.execute("begin immediate")
        database.execute("insert into rows values (?, randomblob(?))", (last, last * 7919 % 3000))
        database.execute("update rows set filler = randomblob(500) where n = ?", (last // 2,))
    print(last, flush=True)
"""


def check_sqlite(path: Path) -> int:
    """The number of rows, 1 to n; integrity holds."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        count, last = database.execute("select count(*), max(n) from rows").fetchone()
    assert count == last
    return int(count)


sqlite_modes = pytest.mark.parametrize(
    ("mode", "synchronous"),
    [
        ("wal", "full"),
        ("delete", "extra"),  # its commit is an unlink, which "full" does not sync
        ("truncate", "full"),
    ],
)


@sqlite_modes
def test_sqlite(stores: Callable[[], MountedStore], mode: str, synchronous: str) -> None:
    sqlite_through_kills(stores().mount(), mode, synchronous, turns=2, commits_max=30)


@sqlite_modes
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sqlite_for_long(stores: Callable[[], MountedStore], mode: str, synchronous: str) -> None:
    sqlite_through_kills(stores().mount(), mode, synchronous, turns=40, commits_max=300)


def sqlite_through_kills(one: MountedStore, mode: str, synchronous: str, *, turns: int, commits_max: int) -> None:
    """In each turn a writer at work, a snapshot meanwhile, kill -9 of the daemon."""
    one.volume.mkdir()
    path = one.volume / "database"
    chance = random.Random(mode)
    known = 0
    for turn in range(turns):
        writer = subprocess.Popen(
            [sys.executable, "-I", "-c", SQLITE_WRITER, path, mode, synchronous],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with ended(writer):
            assert writer.stdout is not None
            told = Acknowledged(writer.stdout)
            told.reach(known + chance.randrange(1, commits_max))
            before = told.last
            one.snapshot(f"s{turn}")
            told.reach(told.last + chance.randrange(1, commits_max))
            one.kill()
            told.join()
        one.mount()
        known = check_sqlite(path)
        assert told.last <= known <= told.last + 1
        one.call("clone", volume="data", snapshot=f"s{turn}", name=f"clone{turn}")
        assert before <= check_sqlite(one.root / f"clone{turn}" / "database") <= known
    assert one.call("check_store").findings == []


# -- PostgreSQL

CLIENTS = 4
SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0777
max_connections = 20
shared_buffers = 16MB
checkpoint_timeout = 30s
max_wal_size = 32MB
min_wal_size = 32MB
"""


def postgres_programs() -> Path | None:
    """Where initdb is: Debian keeps it out of PATH."""
    found = shutil.which("initdb")
    places = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].resolve().parent if places else None


PROGRAMS = postgres_programs()


class Cluster:
    """A PostgreSQL server's data directory; root cannot run one, so the user ``postgres`` does then."""

    def __init__(self, data: Path, sockets: Path) -> None:
        self.data = data
        self.sockets = sockets
        self.user = "postgres" if os.getuid() == 0 else None
        sockets.mkdir(exist_ok=True)
        if self.user:
            shutil.chown(sockets, self.user)

    def command(self, program: str, *arguments: str | Path) -> list[str | Path]:
        assert PROGRAMS is not None
        return [PROGRAMS / program, *arguments]

    def run(self, program: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            self.command(program, *arguments), user=self.user, cwd="/", capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def create(self) -> None:
        self.data.mkdir(mode=0o700)
        if self.user:
            shutil.chown(self.data, self.user)
        self.run("initdb", "--data-checksums", "--auth=trust", "--username=postgres", "--pgdata", self.data)
        with open(self.data / "postgresql.conf", "a") as file:
            file.write(SETTINGS + f"unix_socket_directories = '{self.sockets}'\n")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The server, started, its recovery done; at the end shut down in order, or, if it cannot be, killed."""
        with open(self.sockets / "log", "ab") as log:
            server = subprocess.Popen(
                self.command("postgres", "-D", self.data), user=self.user, cwd="/", stdout=log, stderr=log
            )
        with ended(server):
            deadline = time.monotonic() + WAIT_SECONDS_MAX
            while subprocess.run(self.command("pg_isready", "-q", "-h", self.sockets)).returncode:
                said = (self.sockets / "log").read_text(errors="replace")
                assert server.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)
            yield
            if server.poll() is None:
                server.terminate()  # "smart" would wait for clients: there are none
                server.wait(WAIT_SECONDS_MAX)

    def options(self) -> list[str | Path]:
        return ["-h", self.sockets, "-U", "postgres"]

    def query(self, sql: str) -> str:
        return self.run("psql", *self.options(), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql).strip()

    @contextlib.contextmanager
    def committing(self) -> Iterator[Acknowledged]:
        """A client that commits one row after the other, and is told so, until it fails."""
        client = subprocess.Popen(
            self.command("psql", *self.options(), "-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-"),
            user=self.user,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with ended(client):
            assert client.stdin is not None
            assert client.stdout is not None
            told = Acknowledged(client.stdout)
            last = int(self.query("select coalesce(max(n), 0) from told"))
            ending = threading.Event()

            def feed(stdin: IO[bytes]) -> None:
                with contextlib.suppress(BrokenPipeError, ValueError):
                    for n in range(1, last + 1):
                        stdin.write(b"\\echo %d\n" % n)
                    number = last
                    while not ending.is_set():
                        number += 1
                        stdin.write(b"insert into told values (%d);\n\\echo %d\n" % (number, number))
                        stdin.flush()

            feeder = threading.Thread(target=feed, args=(client.stdin,))
            feeder.start()
            try:
                yield told
            finally:
                ending.set()
                client.kill()
                with contextlib.suppress(BrokenPipeError):
                    client.stdin.close()
                feeder.join()
                told.join()

    def check_consistent(self) -> tuple[int, int]:
        """(rows of pgbench's history, rows of ``told``): the books of pgbench agree, no row is missing."""
        sums = self.query(
            "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),"
            " (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)"
        ).split("|")
        assert len(set(sums)) == 1, sums
        history, told, last = map(
            int,
            self.query("select (select count(*) from pgbench_history), count(*), coalesce(max(n), 0) from told").split(
                "|"
            ),
        )
        assert told == last
        return history, told

    def check_structure(self) -> None:
        self.run("pg_amcheck", *self.options(), "--all", "--install-missing", "--heapallindexed", "--parent-check")


@pytest.fixture
def open_store() -> Iterator[MountedStore]:
    """A mounted store whose files other users can reach: the directories of pytest are its own user's."""
    with tempfile.TemporaryDirectory(prefix="snapfs-") as place:
        os.chmod(place, 0o755)
        one = MountedStore(Path(place))
        one.mount(allow_other=os.getuid() == 0)
        try:
            one.volume.mkdir(0o755)
            yield one
        finally:
            one.close()


class Postgres:
    """One cluster through kills of the daemon."""

    def __init__(self, one: MountedStore) -> None:
        self.one = one
        self.cluster = Cluster(one.volume / "pgdata", one.store.parent / "sockets")
        self.cluster.create()
        with self.cluster.running():
            self.cluster.run("pgbench", *self.cluster.options(), "-i", "-q", "-s", "2", "postgres")
            self.cluster.query("create table told (n bigint primary key)")

    def load_and_kill(self, turn: int, chance: random.Random) -> None:
        """pgbench and a client at work; a snapshot; kill -9 of the daemon; all of it comes back."""
        one, cluster = self.one, self.cluster
        with cluster.running():
            earlier = cluster.check_consistent()[0]
            bench = subprocess.Popen(
                cluster.command(
                    "pgbench", *cluster.options(), "-n", "-c", str(CLIENTS), "-j", "2", "-T", "600", "postgres"
                ),
                user=cluster.user,
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            with ended(bench), cluster.committing() as told:
                told.reach(told.last + chance.randrange(50, 300))
                before = told.last
                one.snapshot(f"s{turn}")
                told.reach(told.last + chance.randrange(50, 300))
                one.kill()
                report = bench.communicate(timeout=WAIT_SECONDS_MAX)[0].decode()
        processed = re.search(r"transactions actually processed: (\d+)", report)
        assert processed is not None, report
        one.mount()
        with cluster.running():
            history, rows = cluster.check_consistent()
            cluster.check_structure()
        assert told.last <= rows <= told.last + 1
        assert int(processed[1]) <= history - earlier <= int(processed[1]) + CLIENTS
        cluster.run("pg_checksums", "--check", "--pgdata", cluster.data)
        assert before <= self.clone(turn) <= rows

    def clone(self, turn: int) -> int:
        """Rows of ``told`` in a clone of the snapshot made under load: it starts as after a crash."""
        self.one.call("clone", volume="data", snapshot=f"s{turn}", name=f"clone{turn}")
        cluster = Cluster(self.one.root / f"clone{turn}" / "pgdata", self.cluster.sockets)
        (cluster.data / "postmaster.pid").unlink()  # of the server that went on
        with cluster.running():
            rows = cluster.check_consistent()[1]
            cluster.check_structure()
        cluster.run("pg_checksums", "--check", "--pgdata", cluster.data)
        return rows


needs_postgres = pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed (Debian: postgresql)")


@needs_postgres
@pytest.mark.timeout(240)
def test_postgres(open_store: MountedStore) -> None:
    Postgres(open_store).load_and_kill(0, random.Random(1))
    assert open_store.call("check_store").findings == []


@needs_postgres
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_postgres_for_long(open_store: MountedStore) -> None:
    postgres, chance = Postgres(open_store), random.Random(2)
    for turn in range(12):
        postgres.load_and_kill(turn, chance)
        open_store.call("delete_volume", name=f"clone{turn}", force=True)
    assert open_store.call("check_store").findings == []
