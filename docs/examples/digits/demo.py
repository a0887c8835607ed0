"""The story of snapfs, played with real commands on real data in a temporary directory.

A git repository holds a training script, a lake holds data and models.  Every commit takes the lake with it,
every checkout brings it back.  Each command is shown as a user would type it, then really run; each claim is
checked.  Ends with exit code 0 only if all of them held; unmounts and removes everything in any case.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

HERE = Path(__file__).resolve().parent
VOLUME = "digits"
BETTER = {"hidden_layer_sizes": [64], "learning_rate_init": 0.001, "max_iter": 120, "random_state": 7}
COMMAND_SECONDS_MAX = 60
PAGE_BYTES = 4096
"""What a small file occupies at least on a usual file system."""


class Failed(Exception):
    """A command failed, or a claim of the story is not true."""


class Story:
    """Runs, shows and checks, in one temporary directory."""

    def __init__(self, top: Path) -> None:
        self.store = top / "store"
        self.mount = top / "lake"
        self.lake = self.mount / VOLUME
        self.project = top / "project"
        self.cwd = top
        # This environment's commands first, and git as a fresh user has it, whatever it is that runs this.
        ours = ("GIT_", "SNAPFS_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        self.env["GIT_CONFIG_GLOBAL"] = self.env["GIT_CONFIG_SYSTEM"] = os.devnull

    def say(self, text: str) -> None:
        print(f"\n# {text}", flush=True)

    def go(self, directory: Path) -> None:
        print(f"$ cd {os.path.relpath(directory, self.cwd)}", flush=True)
        self.cwd = directory

    def run(self, line: str) -> str:
        """Show a command line, run it (without a shell), show and return all that it printed."""
        print(f"$ {line}", flush=True)
        done = self._execute(line, stderr=subprocess.STDOUT)
        print(done.stdout, end="", flush=True)
        if done.returncode:
            raise Failed(f"`{line}` ended with exit code {done.returncode}")
        return done.stdout

    def ask(self, line: str) -> str:
        """Run unshown, for what the story itself must know; returns the standard output."""
        done = self._execute(line, stderr=subprocess.PIPE)
        if done.returncode:
            raise Failed(f"`{line}` ended with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def check(self, claim: str, holds: bool) -> None:
        print(f"  [{'ok' if holds else 'FAILED'}] {claim}", flush=True)
        if not holds:
            raise Failed(f"not so: {claim}")

    def _execute(self, line: str, *, stderr: int) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                shlex.split(line),
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                timeout=COMMAND_SECONDS_MAX,
                check=False,
            )
        except FileNotFoundError:
            raise Failed(f"`{line}`: no such command; `make setup` installs it") from None
        except subprocess.TimeoutExpired:
            raise Failed(f"`{line}` did not end within {COMMAND_SECONDS_MAX} s") from None


def model_hash(tree: Path) -> str:
    return hashlib.sha256((tree / "model" / "model.pickle").read_bytes()).hexdigest()


def noted_accuracy(tree: Path) -> str:
    """As the training wrote it beside the model, in the words of `train.py evaluate`."""
    return f"accuracy {json.loads((tree / 'model' / 'metrics.json').read_text())['accuracy']:.4f}"


def set_up(story: Story) -> None:
    story.say("A store for the lake, mounted, with a volume in it.")
    story.run("snap init store")
    story.run("mkdir lake")
    story.run("snap mount store lake")
    story.run(f"snap volume create {VOLUME} --store store")

    story.say("A project under git; from now on its commits and the volume's snapshots go together.")
    story.run("git init --quiet --initial-branch main project")
    story.go(story.project)
    for name in ("train.py", "params.json"):
        shutil.copy(HERE / name, story.project)
    story.run("git config user.name 'Ada Example'")
    story.run("git config user.email ada@example.org")
    story.run(f"snap git install --volume {VOLUME} --store ../store")


def train_twice(story: Story) -> tuple[str, str]:
    """Returns the hashes of both models."""
    story.say("Handwritten digits, as plain files in the lake; a first model, trained on them.")
    story.run(f"python train.py prepare ../lake/{VOLUME}")
    story.run(f"python train.py train ../lake/{VOLUME} params.json")
    story.run("git add train.py params.json")
    story.run("git commit -m 'A first network'")
    first = model_hash(story.lake)

    story.say("Other parameters, a better model, the next commit.")
    (story.project / "params.json").write_text(json.dumps(BETTER, indent=2) + "\n")
    story.run("git diff --stat")
    story.run(f"python train.py train ../lake/{VOLUME} params.json")
    story.run(f"snap status {VOLUME}")
    story.run("git commit -a -m 'A wider network, trained longer'")
    return first, model_hash(story.lake)


def compare(story: Story) -> list[str]:
    """Commits, snapshots and accuracies side by side; returns the commit IDs, oldest first."""
    story.say("Every commit has its snapshot, under the commit's own ID, and all can be read at any time.")
    story.run(f"snap list {VOLUME}")
    snapshots = {snapshot["name"] for snapshot in json.loads(story.ask(f"snap list {VOLUME} --json"))}
    log = [line.split(" ", 1) for line in story.ask("git log --reverse --format='%H %s'").splitlines()]
    commits = [commit for commit, _ in log]
    story.check("each commit has a snapshot of the same name", snapshots == set(commits))
    print(f"\n  {'commit':8}  {'snapshot':15}  accuracy  subject")
    for commit, subject in log:
        accuracy = noted_accuracy(story.lake / ".snap" / commit).removeprefix("accuracy ")
        print(f"  {commit[:8]}  {VOLUME}@{commit[:8]}  {accuracy:8}  {subject}")
    print()
    story.run(f"snap diff {VOLUME}@{commits[0][:8]} {VOLUME}@{commits[1][:8]}")
    return commits


def go_back(story: Story, commits: list[str], hashes: tuple[str, str]) -> None:
    story.say("Back to the first commit: git moves the code, the lake follows.")
    story.run(f"git checkout --quiet {commits[0][:8]}")
    story.check("the model in the lake is the first one, byte for byte", model_hash(story.lake) == hashes[0])
    measured = story.run(f"python train.py evaluate ../lake/{VOLUME}").strip()
    story.check(f"it reaches what it reached then: {measured}", measured == noted_accuracy(story.lake))
    trained_with = json.loads((story.lake / "model" / "metrics.json").read_text())["params"]
    here = json.loads((story.project / "params.json").read_text())
    story.check("its parameters are those of the code that is checked out", trained_with == here)

    story.say("And to the newest again.")
    story.run("git checkout --quiet main")
    story.check("the model is the second one, byte for byte", model_hash(story.lake) == hashes[1])
    measured = story.run(f"python train.py evaluate ../lake/{VOLUME}").strip()
    story.check(f"it reaches what it reached then: {measured}", measured == noted_accuracy(story.lake))


def lose_and_restore(story: Story, commits: list[str], hashes: tuple[str, str]) -> None:
    story.say("The model gets lost, and comes back.")
    story.run(f"rm -r ../lake/{VOLUME}/model")
    story.run(f"snap status {VOLUME}")
    story.check("the model is gone", not (story.lake / "model").exists())
    story.run(f"snap restore {VOLUME}@{commits[1][:8]} model")
    story.check("it is back, byte for byte", model_hash(story.lake) == hashes[1])
    unsaved = json.loads(story.ask(f"snap status {VOLUME} --json"))
    story.check("the volume is as it was committed", not [change for change in unsaved if change["content"]])


def weigh(story: Story, commits: list[str]) -> None:
    story.say("What the store holds, beside what the versions would take as copies.")
    files = [
        path.stat().st_size
        for commit in commits
        for path in (story.lake / ".snap" / commit).rglob("*")
        if path.is_file()
    ]
    pages = sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in files)
    info = json.loads(story.ask("snap info --json"))
    rows = (
        (f"{len(commits)} versions, {len(files):,} files, sum of their sizes", sum(files)),
        ("the store's data, deduplicated and compressed", info["stored_bytes"]),
        ("the versions as copies, in pages of 4 KiB", pages),
        ("the store on disk, with its index", info["disk_bytes"]),
    )
    for label, count in rows:
        print(f"  {label:54} {count / 1000:10,.1f} kB")
    story.check("the store's data is less than the sum of the versions", info["stored_bytes"] < sum(files))


def play(story: Story) -> None:
    set_up(story)
    hashes = train_twice(story)
    story.check("the two models differ", hashes[0] != hashes[1])
    commits = compare(story)
    go_back(story, commits, hashes)
    lose_and_restore(story, commits, hashes)
    weigh(story, commits)
    story.say("Unmounted; the store is checked, block by block.")
    story.run("snap umount ../lake")
    story.run("snap fsck ../store")


def is_mounted(directory: Path) -> bool:
    """From the kernel's table: asking the directory itself tells nothing when its daemon has died."""
    name = str(directory).replace("\\", r"\134").replace(" ", r"\040")
    return any(line.split()[4] == name for line in Path("/proc/self/mountinfo").read_text().splitlines())


@contextlib.contextmanager
def stage() -> Iterator[Story]:
    """A temporary directory; whatever is still mounted in it is unmounted at the end."""
    top = Path(tempfile.mkdtemp(prefix="snapfs-demo-")).resolve()
    story = Story(top)
    try:
        yield story
    finally:
        if is_mounted(story.mount):
            story.cwd = top
            with contextlib.suppress(Failed):
                story.ask("snap umount lake")
        if is_mounted(story.mount):
            subprocess.run(["fusermount3", "-u", "-z", str(story.mount)], check=False)
        # Never into a mount: that would delete the lake's files, not the directory that it is mounted on.
        if not is_mounted(story.mount):
            shutil.rmtree(top)


def log_tail(store: Path) -> str:
    log = store / "daemon.log"
    lines = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
    return "".join(f"  {log.name}: {line}\n" for line in lines)


def terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Make a signal end the demo through its clean-up."""
    raise SystemExit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGHUP, terminated)
    with stage() as story:
        try:
            play(story)
        except (Failed, OSError) as error:
            print(f"{log_tail(story.store)}demo: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("demo: interrupted", file=sys.stderr)
            return 130
    print("\nAll of it held.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
