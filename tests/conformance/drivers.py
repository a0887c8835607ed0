"""How each suite is run and its output read.

Invariants:
  * A suite yields each test once, with an id that does not depend on the run.
  * A test that does not end in time, or ends without a result, has failed.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from outcomes import Outcome, Status
from suite import DETAIL_CHARACTERS_MAX, Bounds, Ended, Missing, Suite, execute, short

_FILE_SECONDS_MAX = 600
"""For one file of pjdfstest, one job of fio, one module of Python."""
_OPERATIONS_PER_SECOND_MIN = 50
"""Of fsx and fsstress on the slowest machine thought of."""


class Pjdfstest(Suite):
    """The C version: ``pjdfstest`` beside its ``tests``, run as root."""

    name = "pjdfstest"
    what = "system calls, their errors, permissions and times, as several users"
    where = "its source is github.com/pjd/pjdfstest, to be built as its README says"
    command = "pjdfstest"
    as_root = True
    _LINE = re.compile(r"^(not )?ok(?: (\d+))?(.*)$")

    def _root(self) -> Path:
        root = self.program.parent / "tests"
        if not (root / "conf").is_file():
            raise Missing(f"no tests beside {self.program}: give the directory of its source with --at")
        return root

    def tests(self) -> list[str]:
        root = self._root()
        return sorted(str(file.relative_to(root).with_suffix("")) for file in root.glob("*/*.t"))

    def run(self, place: Path, wanted: list[str], bounds: Bounds) -> Iterator[Outcome]:
        place.chmod(0o777)
        with concurrent.futures.ThreadPoolExecutor(bounds.jobs) as workers:
            for outcomes in workers.map(lambda test: self._file(place, test), self.chosen(wanted)):
                yield from outcomes

    def _file(self, place: Path, test: str) -> list[Outcome]:
        own = Path(tempfile.mkdtemp(dir=place))
        own.chmod(0o755)
        ended = execute(own, _FILE_SECONDS_MAX, "sh", self._root() / f"{test}.t")
        shutil.rmtree(own, ignore_errors=True)
        return self.read(test, ended)

    def read(self, test: str, ended: Ended) -> list[Outcome]:
        """TAP: a plan, then a line for each test; TODO marks what no Linux does."""
        outcomes: list[Outcome] = []
        planned: int | None = None
        for line in ended.output.splitlines():
            if plan := re.match(r"1\.\.(\d+)", line):
                planned = int(plan[1])
            elif found := self._LINE.match(line):
                number = int(found[2] or len(outcomes) + 1)
                rest = found[3].strip().removeprefix("- ")
                if found[1] and not rest.startswith("# TODO"):
                    outcomes.append(Outcome(f"{test}:{number}", Status.FAILED, _expectation(rest)))
                elif found[1]:
                    outcomes.append(Outcome(f"{test}:{number}", Status.SKIPPED, short(rest.removeprefix("# "))))
                elif "# SKIP" in rest.upper():
                    outcomes.append(Outcome(f"{test}:{number}", Status.SKIPPED, short(rest)))
                else:
                    outcomes.append(Outcome(f"{test}:{number}", Status.PASSED))
        if ended.code != 0 or planned is None or len(outcomes) != planned:
            why = ended.reason() if ended.code != 0 else f"{len(outcomes)} results, not the {planned} planned"
            outcomes.append(Outcome(test, Status.FAILED, why))
        return outcomes


def _expectation(text: str) -> str:
    """The end of a line that may hold a path of 4 KiB."""
    return text if len(text) <= DETAIL_CHARACTERS_MAX else "..." + text[3 - DETAIL_CHARACTERS_MAX :]


class Fsx(Suite):
    """Of xfstests: options of its own."""

    name = "fsx"
    what = "one file, random reads, writes, truncations and maps against a copy in memory"
    where = "it is ltp/fsx of the source of xfstests, to be built as its README says"
    command = "fsx"
    _VARIANTS: ClassVar[dict[str, list[str]]] = {
        "plain": [],
        "unmapped": ["-R", "-W"],
        "large": ["-l", "16777216", "-o", "1048576"],
        "direct": ["-Z", "-R", "-W", "-r", "4096", "-w", "4096", "-t", "4096"],
        "sync": ["-f"],
    }

    def tests(self) -> list[str]:
        return list(self._VARIANTS)

    def run(self, place: Path, wanted: list[str], bounds: Bounds) -> Iterator[Outcome]:
        seconds_max = 60 + bounds.operations / _OPERATIONS_PER_SECOND_MIN
        for variant in self.chosen(wanted):
            for seed in range(1, bounds.seeds + 1):
                file = place / f"{variant}-{seed}"
                options = ["-q", "-S", str(seed), "-N", str(bounds.operations), *self._VARIANTS[variant]]
                ended = execute(place, seconds_max, self.program, *options, "-P", place, file)
                yield ended.outcome(f"{variant}-{seed}")


class Fsstress(Suite):
    """Of xfstests or LTP."""

    name = "fsstress"
    what = "random operations on a tree by many processes; then all of it is walked, read and removed"
    where = "it is ltp/fsstress of the source of xfstests, to be built as its README says"
    command = "fsstress"
    _PROCESSES: ClassVar[dict[str, int]] = {"one": 1, "four": 4}

    def tests(self) -> list[str]:
        return list(self._PROCESSES)

    def run(self, place: Path, wanted: list[str], bounds: Bounds) -> Iterator[Outcome]:
        seconds_max = 60 + bounds.operations / _OPERATIONS_PER_SECOND_MIN
        for test in self.chosen(wanted):
            processes = self._PROCESSES[test]
            count = max(1, bounds.operations // processes)
            for seed in range(1, bounds.seeds + 1):
                tree = place / f"{test}-{seed}"
                tree.mkdir()
                options = ["-n", str(count), "-p", str(processes), "-s", str(seed)]
                ended = execute(place, seconds_max, self.program, "-d", tree, *options)
                outcome = ended.outcome(f"{test}-{seed}")
                if outcome.status is Status.PASSED and (wrong := _walk(tree)):
                    outcome = Outcome(outcome.id, Status.FAILED, wrong)
                yield outcome


def _walk(tree: Path) -> str:
    """What is wrong with a tree that random operations left: that an entry cannot be looked at, read or removed."""
    try:
        for root, directories, files in os.walk(tree, onerror=_raise):
            for name in directories + files:
                path = Path(root, name)
                status = path.lstat()
                if path.is_symlink():
                    path.readlink()
                elif path.is_file() and status.st_size:
                    with path.open("rb") as file:
                        while file.read(1 << 20):
                            if file.tell() > 1 << 26:  # sparse files are very large
                                break
        shutil.rmtree(tree)
    except OSError as error:
        return short(str(error))
    return ""


def _raise(error: OSError) -> None:
    raise error


class Fio(Suite):
    """Writes blocks that carry their own checksum and place, and reads them back."""

    name = "fio"
    what = "blocks that carry a checksum, written in many ways and verified"
    where = "it is Debian's package fio"
    command = "fio"
    _JOBS: ClassVar[dict[str, list[str]]] = {
        "write": ["--rw=write", "--bs=64k", "--ioengine=psync"],
        "randwrite": ["--rw=randwrite", "--bs=4k", "--ioengine=psync"],
        "randrw": ["--rw=randrw", "--bsrange=512-32k", "--bs_unaligned=1", "--ioengine=psync"],
        "mmap": ["--rw=randwrite", "--bs=4k", "--ioengine=mmap"],
        "direct": ["--rw=randwrite", "--bs=16k", "--ioengine=psync", "--direct=1"],
        "libaio": ["--rw=randwrite", "--bs=8k", "--ioengine=libaio", "--direct=1", "--iodepth=16"],
        "fsync": ["--rw=randwrite", "--bs=8k", "--ioengine=psync", "--fsync=32"],
        "backlog": ["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--verify_backlog=128"],
        "files": ["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--nrfiles=32", "--numjobs=3", "--group_reporting"],
        "twice": ["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--norandommap=1", "--loops=2"],
    }

    def tests(self) -> list[str]:
        return list(self._JOBS)

    def run(self, place: Path, wanted: list[str], bounds: Bounds) -> Iterator[Outcome]:
        common = [f"--size={bounds.megabytes}m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]
        for test in self.chosen(wanted):
            own = place / test
            own.mkdir()
            options = [f"--name={test}", f"--directory={own}", *common, *self._JOBS[test]]
            yield execute(own, _FILE_SECONDS_MAX, self.program, *options).outcome(test)
            shutil.rmtree(own)


class StressNg(Suite):
    """Its stressors that work on files of one directory: not those for /proc, devices and mounting, nor ``io``, which
    syncs every file system of the machine."""

    name = "stress-ng"
    what = "stressors of file systems, each for some seconds, with what they verify"
    where = "it is Debian's package stress-ng"
    command = "stress-ng"
    _STRESSORS = (
        "access aio aiol chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify fallocate fanotify fcntl"
        " fiemap file-ioctl filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify io-uring iomix"
        " lease link locka lockf lockofd mknod open readahead rename revio seek sendfile symlink sync-file touch utime"
        " verity xattr"
    )
    _EXIT_NO_RESOURCE = 3
    _EXIT_NOT_IMPLEMENTED = 4
    _GRACE_SECONDS = 60
    """A stressor ends its last round, and removes its files, after its time."""

    def tests(self) -> list[str]:
        return self._STRESSORS.split()

    def run(self, place: Path, wanted: list[str], bounds: Bounds) -> Iterator[Outcome]:
        for test in self.chosen(wanted):
            own = place / test
            own.mkdir()
            options = [f"--{test}", "2", "--verify", "--timeout", str(bounds.seconds)]
            seconds_max = bounds.seconds + self._GRACE_SECONDS
            ended = execute(own, seconds_max, self.program, *options, "--temp-path", own)
            shutil.rmtree(own, ignore_errors=True)
            yield self.read(test, ended)

    def read(self, test: str, ended: Ended) -> Outcome:
        """A stressor that cannot run on a file system says so and exits with 3 or 4, or 0."""
        lines = ended.output.splitlines()
        skipped = [line for line in lines if "skipping stress" in line or "skipping test" in line]
        if ended.code in (self._EXIT_NO_RESOURCE, self._EXIT_NOT_IMPLEMENTED) or (ended.code == 0 and skipped):
            return Outcome(test, Status.SKIPPED, self._message(skipped or lines))
        failed = [line for line in lines if ": fail:" in line or "error:" in line]
        if ended.code == 0 and not failed:
            return Outcome(test, Status.PASSED)
        detail = self._message(failed) if failed and ended.code is not None else ended.reason()
        return Outcome(test, Status.FAILED, detail)

    @staticmethod
    def _message(lines: list[str]) -> str:
        return short(re.sub(r"^stress-ng: \w+: *\[\d+\] *", "", lines[0])) if lines else ""


class Python(Suite):
    """CPython's own tests, with their working directory and TMPDIR on the mount."""

    name = "python"
    what = "CPython's tests of os, shutil, mmap, tempfile and other modules that use files"
    where = "Debian's package libpython3-testsuite has the tests of its python3"
    command = "python3"
    _MODULES = (
        "test_builtin test_bz2 test_dbm test_dbm_dumb test_dbm_gnu test_dbm_ndbm test_dbm_sqlite3 test_fcntl test_file"
        " test_filecmp test_fileinput test_fileio test_fileutils test_genericpath test_glob test_gzip test_import"
        " test_io test_largefile test_linecache test_lzma test_mailbox test_mmap test_ntpath test_os test_pathlib"
        " test_posix test_posixpath test_shelve test_shutil test_sqlite3 test_stat test_subprocess test_tarfile"
        " test_tempfile test_unicode_file test_unicode_file_functions test_zipapp test_zipfile test_zipfile64"
        " test_zipimport"
    )
    _NONE_RAN = 4
    """regrtest's exit code when it has run no test."""
    _FAILURE = re.compile(r"^(?:FAIL|ERROR): (\w+) \(([\w.]+)\)(.*)$", re.MULTILINE)

    def find(self, at: Path | None) -> Path:
        program = super().find(at if at is not None else Path(sys.executable))
        probe = subprocess.run([program, "-c", "import test.test_os"], capture_output=True, check=False)
        if probe.returncode:
            raise Missing(f"{program} has no tests of its own; {self.where}, then give --at PATH")
        return program

    def tests(self) -> list[str]:
        program = "import importlib.util as u,sys;print(*[m for m in sys.argv[1:] if u.find_spec('test.'+m)])"
        command: list[str | Path] = [self.program, "-c", program, *self._MODULES.split()]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()

    def run(self, place: Path, wanted: list[str], bounds: Bounds) -> Iterator[Outcome]:
        environment = {**os.environ, "TMPDIR": str(place), "PYTHONDONTWRITEBYTECODE": ""}
        environment.pop("PYTHONPATH", None)
        for module in self.chosen(wanted):
            own = place / module
            own.mkdir()
            with tempfile.NamedTemporaryFile(suffix=".xml") as report:
                options = ["-m", "test", "--tempdir", str(own), "--junit-xml", report.name, module]
                ended = execute(own, _FILE_SECONDS_MAX, self.program, *options, environment=environment)
                yield from self.read(module, ended, Path(report.name).read_text(errors="replace"))
            shutil.rmtree(own, ignore_errors=True)

    def read(self, module: str, ended: Ended, report: str) -> list[Outcome]:
        """The tests in a report as JUnit writes them, and the module itself if it has another failure than theirs."""
        outcomes = []
        cases = ElementTree.fromstring(report).iter("testcase") if report.strip() else ()
        for case in cases:
            test = f"{module}:{case.get('name', '').removeprefix('test.').removeprefix(module + '.')}"
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            if bad is not None:
                lines = [line for line in "".join(bad.itertext()).splitlines() if line.strip()]
                outcomes.append(Outcome(test, Status.FAILED, short(lines[-1]) if lines else "failed"))
            elif case.find("skipped") is not None:
                outcomes.append(Outcome(test, Status.SKIPPED, short("".join(case.find("skipped").itertext()))))  # type: ignore[union-attr]
            else:
                outcomes.append(Outcome(test, Status.PASSED))
        if ended.code != 0:
            outcomes = self._with_subtests(module, outcomes, ended.output)
        if not outcomes and ended.code in (0, self._NONE_RAN):
            outcomes.append(Outcome(module, Status.SKIPPED, "the module skips itself here"))
        elif ended.code != 0 and not any(outcome.status is Status.FAILED for outcome in outcomes):
            outcomes.append(Outcome(module, Status.FAILED, ended.reason()))
        return outcomes

    def _with_subtests(self, module: str, outcomes: list[Outcome], output: str) -> list[Outcome]:
        """The report knows nothing of failures of subtests (unittest's): they are in the output only."""
        failed = {}
        for found in self._FAILURE.finditer(output):
            where = found[2].removeprefix("test.").removeprefix(f"{module}.").removesuffix(f".{found[1]}")
            failed[f"{module}:{where}.{found[1]}"] = short(found[3].strip() or "a subtest failed")
        reported = {outcome.id for outcome in outcomes if outcome.status is Status.FAILED}
        outcomes = [outcome for outcome in outcomes if outcome.id not in failed.keys() - reported]
        return outcomes + [Outcome(test, Status.FAILED, failed[test]) for test in sorted(failed.keys() - reported)]


SUITES: dict[str, type[Suite]] = {kind.name: kind for kind in (Pjdfstest, Fsx, Fsstress, Fio, StressNg, Python)}
