"""A real source tree, unpacked and compiled: uWSGI's, 700 files of which 200 are C, as PyPI has it.

It is downloaded once, by pip, into the user's cache directory.  Unpacking (tar) ends with the files' sync; compiling is
the tree's own build with as many jobs as there are cores and without optimisation, so that files count for more than
the compiler.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from benchmarks import filesystems, harness
from benchmarks.filesystems import FileSystem
from benchmarks.harness import Options, Report

PACKAGE, VERSION = "uwsgi", "2.0.31"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
TREE = f"{PACKAGE}-{VERSION}"
PROFILE = "nolang"

ONCE = ("btrfs", "S3QL")
"""In a full run."""
SHORT = ("snapfs", "bindfs", "ext4")
"""A short run: there is no smaller tree."""

UNPACK, COMPILE, LIST, REMOVE = "unpack", "compile", "find -newer, cold", "remove"


def archive() -> Path:
    """The source, from the cache or from the package index."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "snapfs-benchmarks"
    if not (cache / ARCHIVE).exists():
        cache.mkdir(parents=True, exist_ok=True)
        words = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
        harness.run(*words, "--no-binary", ":all:", "--dest", cache, f"{PACKAGE}=={VERSION}")
    return cache / ARCHIVE


def measure(system: FileSystem, source: Path) -> dict[str, float]:
    """Seconds of each step."""
    found = {}
    tree = system.root / TREE

    def unpack() -> None:
        harness.run("tar", "xzf", source, "-C", system.root)
        harness.run("sync", "-f", system.root)

    def compiled() -> None:
        environment = {"CPUCOUNT": str(os.cpu_count()), "CFLAGS": "-O0", "UWSGI_PROFILE": PROFILE}
        harness.run("python3", "uwsgiconfig.py", "--build", PROFILE, cwd=tree, env=environment)

    found[UNPACK] = harness.timed(unpack)
    system.forget_caches(pages=False)  # the compiler stays where it is
    found[COMPILE] = harness.timed(compiled)
    if not os.access(tree / PACKAGE, os.X_OK):
        raise SystemExit(f"{tree}: nothing was built")
    system.forget_caches()
    harness.run("find", "--version")
    found[LIST] = harness.timed(partial(harness.run, "find", tree, "-newer", tree / "uwsgiconfig.py"))
    found[REMOVE] = harness.timed(partial(shutil.rmtree, tree))
    return found


def body(report: Report, options: Options, place: Path) -> None:
    if harness.installed("gcc") and harness.installed("python3"):
        work = partial(measure, source=archive())
        filesystems.durations(report, options, place, work, group="uWSGI", once=ONCE)


if __name__ == "__main__":
    question = "how long do unpacking and compiling a source tree take, beside other file systems?"
    report, names = Report("sourcetree", question), filesystems.NAMES
    sys.exit(harness.main(report, body, repeats=1, full_repeats=2, subjects=names, on=SHORT, full_on=names))
