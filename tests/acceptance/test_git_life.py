"""Data follows git: real repositories, real hooks, a real mount.

Every commit's data is noted when it is made (for a rewritten commit: that of the one it replaces); wherever
git goes later, the volume must hold exactly what was noted for that commit.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

SNAP = Path(sys.executable).with_name("snap")

Data = dict[str, tuple[int, bytes]]
"""Mode and content (or link target) of every file of a volume, by path."""


def clean_environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
    }
    return kept | identity | {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_EDITOR": "true"}


@dataclass
class Mounted:
    store: Path
    point: Path
    environment: dict[str, str]

    def snap(self, *arguments: str, fails: bool = False, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [SNAP, *arguments],
            cwd=cwd or self.store.parent,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == fails, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    base = tmp_path_factory.mktemp("lake").resolve()
    made = Mounted(base / "store", base / "lake", clean_environment(base))
    made.point.mkdir()
    made.snap("init", str(made.store))
    made.snap("mount", str(made.store), str(made.point))
    try:
        yield made
    finally:
        made.snap("umount", str(made.point))
    report = json.loads(made.snap("fsck", "--json", str(made.store)))
    assert report["findings"] == []


def read_data(root: Path) -> Data:
    found: Data = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory, name)
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode):
                content = os.fsencode(os.readlink(path))
            else:
                content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[str(path.relative_to(root))] = (info.st_mode, content)
    return found


@dataclass
class Project:
    """A repository with its volume, and what is known of every commit."""

    lake: Mounted
    root: Path
    data: Path
    noted: dict[str, Data] = field(default_factory=dict)
    told: str = ""
    """What the last git command wrote to stderr; asking for the head does not count."""
    steps: int = 0

    def git(self, *arguments: str, fails: bool = False, cwd: Path | None = None, **environment: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.root,
            env=self.lake.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.told = done.stderr
        assert (done.returncode != 0) == fails, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr
        return done.stdout.strip()

    def head(self, revision: str = "HEAD") -> str:
        told = self.told
        commit = self.git("rev-parse", revision)
        self.told = told
        return commit

    def now(self) -> Data:
        return read_data(self.data)

    def change(self) -> None:
        """Change the data in ways that vary from step to step."""
        self.steps += 1
        step = self.steps
        (self.data / "model.bin").write_bytes(f"model {step}\n".encode() * 5000)
        (self.data / "tables").mkdir(exist_ok=True)
        table = self.data / "tables/log.csv"
        table.write_bytes((table.read_bytes() if table.exists() else b"") + f"{step},{step * step}\n".encode())
        if step % 3 == 0:
            new = self.data / f"tables/part-{step}"
            new.write_text(f"part {step}")
            new.chmod(0o600 if step % 2 else 0o755)
        if step % 4 == 0:
            parts = sorted((self.data / "tables").glob("part-*"))
            if parts:
                parts[0].rename(self.data / "tables" / f"renamed-{step}")
        if step % 5 == 0:
            latest = self.data / "latest"
            latest.unlink(missing_ok=True)
            latest.symlink_to(f"tables/part-{step}")
        if step % 7 == 0:
            shutil.rmtree(self.data / "tables")

    def commit(self, name: str = "", *options: str) -> str:
        """Change code and data, commit, note."""
        self.change()
        name = name or f"file-{self.steps}"
        (self.root / name).write_text(f"code {self.steps}\n")
        self.git("add", name)
        self.git("commit", "-q", "-m", f"step {self.steps}", *options)
        return self.note()

    def note(self) -> str:
        commit = self.head()
        self.noted[commit] = self.now()
        return commit

    def rewritten(self, old: list[str], new: list[str]) -> None:
        assert len(old) == len(new), (old, new)
        for before, after in zip(old, new, strict=True):
            self.noted.setdefault(after, self.noted[before])

    def between(self, base: str, tip: str = "HEAD") -> list[str]:
        return self.git("rev-list", "--reverse", f"{base}..{tip}").split()

    def is_right(self) -> None:
        """The volume holds what was noted for HEAD."""
        assert self.now() == self.noted[self.head()]

    def visit_all(self) -> None:
        """Check out every commit known, in an order that jumps about."""
        commits = sorted(self.noted)
        for commit in commits:
            self.git("checkout", "-q", "--detach", commit)
            self.is_right()

    def snapshots(self) -> list[dict[str, object]]:
        listed: list[dict[str, object]] = json.loads(
            self.lake.snap("list", self.data.name, "--store", str(self.lake.store), "--json")
        )
        return listed

    def saved(self) -> list[str]:
        return [str(entry["name"]) for entry in self.snapshots() if str(entry["name"]).startswith("unsaved-")]


def make_project(mounted: Mounted, root: Path, name: str, *options: str) -> Project:
    volume = "v" + "".join(c for c in name if c.isalnum())[-40:]
    mounted.snap("volume", "create", volume, "--store", str(mounted.store))
    root.mkdir()
    project = Project(mounted, root, mounted.point / volume)
    project.git("init", "-q", "-b", "main", *options)
    mounted.snap("git", "install", "--volume", volume, "--store", str(mounted.store), cwd=root)
    return project


@pytest.fixture
def project(mounted: Mounted, tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    return make_project(mounted, tmp_path / "code", request.node.name)


def todo(script: str) -> str:
    """A sequence editor that edits rebase's list with sed."""
    return f"sed -i -e '{script}'"


# -- one long life -------------------------------------------------------------------------------------


def test_thirty_commits_on_three_branches(project: Project) -> None:
    for _ in range(6):
        project.commit()
    fork = project.head()
    project.git("checkout", "-q", "-b", "topic")
    for _ in range(6):
        project.commit()
    project.git("checkout", "-q", "-b", "wild", fork)
    project.is_right()
    for _ in range(5):
        project.commit()
    project.git("checkout", "-q", "main")
    project.is_right()
    for _ in range(3):
        project.commit()

    project.commit("amended", "--amend")  # takes the last commit's place, its data anew
    project.git("commit", "-q", "--amend", "-m", "new message only")
    project.note()

    project.git("checkout", "-q", "topic")
    old = project.between(fork)
    project.git("rebase", "-q", "main")
    project.rewritten(old, project.between("main"))
    project.is_right()

    project.git("checkout", "-q", "main")
    project.git("merge", "-q", "--no-ff", "-m", "merge topic", "topic")
    project.note()
    project.commit()

    project.git("checkout", "-q", "wild")
    project.is_right()
    old = project.between(fork)
    project.git("rebase", "-q", "-i", fork, GIT_SEQUENCE_EDITOR=todo("2s/pick/reword/;4s/pick/fixup/"))
    new = project.between(fork)
    project.rewritten([old[0], old[1], old[3], old[4]], new)
    project.is_right()
    for _ in range(4):
        project.commit()

    project.git("checkout", "-q", "main")
    project.is_right()
    for _ in range(3):
        project.commit()

    culprit = project.between(fork, "topic")[3]
    bad = {culprit, *project.between(culprit, "main")}
    assert culprit in project.between(fork, "main")
    project.git("bisect", "start", "main", fork)
    project.is_right()
    while "is the first bad commit" not in (out := project.git("bisect", "bad" if project.head() in bad else "good")):
        project.is_right()
    assert f"{culprit} is the first bad commit" in out
    project.git("bisect", "reset")
    project.is_right()

    assert len(project.noted) >= 40
    project.visit_all()
    for branch in ("main", "topic", "wild"):
        project.git("checkout", "-q", branch)
        project.is_right()
    assert project.saved() == []


def test_bisect_run_finds_what_the_data_shows(project: Project) -> None:
    commits = [project.commit() for _ in range(12)]
    table, model = project.data / "tables/log.csv", project.data / "model.bin"
    probe = f"! grep -q '^9,' {table} && ! grep -q 'model 1[0-2]' {model}"
    out = project.git("bisect", "start", commits[-1], commits[0])
    out = project.git("bisect", "run", "sh", "-c", probe)
    assert f"{commits[8]} is the first bad commit" in out
    project.git("bisect", "reset")
    project.is_right()


# -- single operations ------------------------------------------------------------------------------------


def diverged(project: Project) -> tuple[str, str]:
    """main and topic (checked out), two and three commits after their fork; the fork and topic's tip."""
    fork = project.commit()
    project.commit()
    project.commit()
    project.git("checkout", "-q", "-b", "topic", fork)
    for _ in range(3):
        project.commit()
    return fork, project.head()


@pytest.mark.parametrize("backend", ["--merge", "--apply"])
def test_rebase(project: Project, backend: str) -> None:
    fork, _ = diverged(project)
    old = project.between(fork)
    project.git("rebase", "-q", backend, "main")
    project.rewritten(old, project.between("main"))
    project.is_right()
    project.visit_all()
    assert project.saved() == []


@pytest.mark.parametrize("backend", ["--merge", "--apply"])
def test_rebase_conflict_abort_and_continue(project: Project, backend: str) -> None:
    fork = project.commit("same")
    project.commit("same")
    project.git("checkout", "-q", "-b", "topic", fork)
    project.commit()
    project.commit("same")
    project.commit()
    old = project.between(fork)
    project.git("rebase", "-q", backend, "main", fails=True)
    project.git("rebase", "--abort")
    project.is_right()
    project.git("rebase", "-q", backend, "main", fails=True)
    (project.root / "same").write_text("resolved")
    project.git("add", "same")
    project.git("rebase", "--continue")
    project.rewritten(old, project.between("main"))
    project.is_right()
    project.visit_all()


def test_rebase_that_makes_no_commit(project: Project) -> None:
    fork = project.commit()
    project.commit()
    project.git("checkout", "-q", "-b", "behind", fork)
    project.is_right()
    project.git("rebase", "-q", "main")
    project.is_right()
    project.git("checkout", "-q", "-b", "behind2", fork)
    project.git("rebase", "-q", "--apply", "main")
    project.is_right()
    project.commit()
    project.commit()
    project.git("rebase", "-q", "-i", "HEAD~2", GIT_SEQUENCE_EDITOR=todo("2s/pick/drop/"))
    project.is_right()


def test_rebase_of_merges(project: Project) -> None:
    fork, _ = diverged(project)
    for side in ("side", "other"):
        project.git("checkout", "-q", "-b", side, fork)
        project.commit()
    project.git("checkout", "-q", "topic")
    project.git("merge", "-q", "--no-ff", "-m", "two", "side")
    project.note()
    project.git("merge", "-q", "-m", "octopus", "other", "main")
    project.note()
    project.git("checkout", "-q", "main")
    base = project.commit()
    project.git("checkout", "-q", "topic")
    subjects = {project.git("log", "-1", "--format=%s", commit): commit for commit in project.noted}
    project.git("rebase", "-q", "--rebase-merges", base)
    for commit in project.between(base):
        old = subjects[project.git("log", "-1", "--format=%s", commit)]
        project.noted.setdefault(commit, project.noted[old])
    project.is_right()
    project.visit_all()


def test_pull_rebase(project: Project, tmp_path: Path) -> None:
    fork, _ = diverged(project)
    project.git("clone", "-q", "-b", "main", ".", str(tmp_path / "upstream"))
    project.git("checkout", "-q", "topic")
    old = project.between(fork)
    project.git("pull", "-q", "--rebase", str(tmp_path / "upstream"), "main")
    project.rewritten(old, project.between("main"))
    project.is_right()
    project.git("checkout", "-q", fork)
    project.git("pull", "-q", "--rebase", str(tmp_path / "upstream"), "main")
    project.is_right()
    project.visit_all()


def test_rebase_keeps_unsaved_data(project: Project) -> None:
    diverged(project)
    (project.data / "unsaved").write_text("still working")
    project.git("rebase", "-q", "main")
    assert (project.data / "unsaved").read_text() == "still working"
    assert project.saved() == []


def test_edit_in_a_rebase(project: Project) -> None:
    fork = project.commit()
    first, second, third = project.commit(), project.commit(), project.commit()
    project.git("rebase", "-q", "-i", fork, GIT_SEQUENCE_EDITOR=todo("2s/pick/edit/"))
    project.lake.snap("git", "sync", cwd=project.root)
    assert project.now() == project.noted[second]
    (project.data / "late").write_text("forgotten data")
    project.git("commit", "-q", "--amend", "--allow-empty", "-m", "edited")
    edited = project.note()
    project.git("rebase", "--continue")
    assert project.between(fork)[:2] == [first, edited]
    project.rewritten([first, edited, third], project.between(fork))
    project.is_right()
    project.visit_all()


def test_edit_in_a_rebase_without_sync_takes_no_foreign_data(project: Project) -> None:
    fork = project.commit()
    second, third = project.commit(), project.commit()
    project.commit()
    project.git("rebase", "-q", "-i", fork, GIT_SEQUENCE_EDITOR=todo("1s/pick/edit/;3d"))
    project.git("commit", "-q", "--amend", "-m", "edited")
    assert "no snapshot" in project.told
    project.git("rebase", "--continue")
    project.rewritten([second, third], project.between(fork))
    project.is_right()
    project.visit_all()


def test_exec_in_a_rebase_can_sync(project: Project) -> None:
    fork, _ = diverged(project)
    old = project.between(fork)
    out = project.root / "seen"
    run = f"{SNAP} git sync >/dev/null && head -1 {project.data}/model.bin >> {out}"
    project.git("rebase", "-q", "--exec", run, "main")
    models = [project.noted[commit]["model.bin"][1].splitlines()[0].decode() for commit in old]
    assert out.read_text().splitlines() == models
    project.rewritten(old, project.between("main"))
    project.is_right()


def test_autosquash_and_reorder(project: Project) -> None:
    fork = project.commit()
    first, second = project.commit(), project.commit()
    project.git("commit", "-q", "--allow-empty", f"--fixup={first}")
    fixup = project.note()
    project.git("rebase", "-q", "-i", "--autosquash", fork, GIT_SEQUENCE_EDITOR="true")
    new = project.between(fork)
    project.rewritten([fixup, second], new)
    project.is_right()
    project.git("rebase", "-q", "-i", fork, GIT_SEQUENCE_EDITOR=todo("1{h;d};2{G}"))
    project.rewritten([new[1], new[0]], project.between(fork))
    project.is_right()
    project.visit_all()


def test_amend_of_data_and_of_words(project: Project) -> None:
    first = project.commit()
    data = project.now()
    project.git("commit", "-q", "--amend", "-m", "words")
    words = project.note()
    assert project.now() == data
    project.change()
    project.git("commit", "-q", "--amend", "--allow-empty", "--no-edit", "--date=2001-01-01T00:00:00")
    changed = project.note()
    assert len({first, words, changed}) == 3
    project.visit_all()


def test_merges(project: Project) -> None:
    fork, topic = diverged(project)
    project.git("checkout", "-q", "main")
    main = project.now()
    project.git("merge", "-q", "--squash", "topic")
    assert project.now() == main
    project.git("reset", "-q", "--hard")
    project.git("merge", "-q", "--no-edit", "topic")
    merged = project.note()
    assert project.now() == main
    project.git("checkout", "-q", "topic")
    assert project.now() == project.noted[topic]
    project.git("merge", "-q", "--ff-only", "main")
    assert project.head() == merged
    project.is_right()
    project.git("checkout", "-q", fork)
    project.git("merge", "-q", topic)
    project.is_right()
    project.visit_all()


def test_a_conflicting_merge_concluded_by_hand(project: Project) -> None:
    fork = project.commit("same")
    project.commit("same")
    project.git("checkout", "-q", "-b", "topic", fork)
    project.commit("same")
    project.git("merge", "-q", "main", fails=True)
    project.is_right()
    project.change()
    (project.root / "same").write_text("resolved")
    project.git("add", "same")
    project.git("commit", "-q", "--no-edit")
    project.note()
    project.visit_all()


def test_fast_forward_to_a_commit_without_snapshot(project: Project, tmp_path: Path) -> None:
    project.commit()
    data = project.now()
    project.git("clone", "-q", ".", str(tmp_path / "elsewhere"))
    elsewhere = tmp_path / "elsewhere"
    project.git("commit", "-q", "--allow-empty", "-m", "made elsewhere", cwd=elsewhere)
    project.git("pull", "-q", str(elsewhere), "main")
    assert project.now() == data
    ours = [line for line in project.told.splitlines() if line.startswith("snapfs: ")]
    assert len(ours) == 1
    assert "left as it is" in ours[0]


def test_cherry_pick_and_revert(project: Project) -> None:
    fork, _ = diverged(project)
    project.git("checkout", "-q", "main")
    data = project.now()
    project.git("cherry-pick", f"{fork}..topic")
    assert project.now() == data
    assert project.git("rev-list", "--count", f"{fork}..HEAD") == "5"
    for commit in project.between(fork):
        project.noted.setdefault(commit, data)
    project.git("revert", "--no-edit", "HEAD")
    project.note()
    project.visit_all()


def test_what_moves_no_data(project: Project, tmp_path: Path) -> None:
    first = project.commit()
    project.commit()
    name = next(path.name for path in project.root.iterdir() if path.is_file())
    data = project.now()
    (project.root / name).write_text("changed")
    project.git("checkout", "--", name)
    (project.root / name).write_text("changed")
    project.git("stash", "-q")
    project.git("stash", "pop", "-q")
    project.git("checkout", "-q", "-b", "same-commit")
    project.git("checkout", "-q", "main")
    project.git("worktree", "add", "-q", "--detach", str(tmp_path / "linked"), first)
    project.git("clone", "-q", ".", str(tmp_path / "clone"))
    project.git("checkout", "-q", "--orphan", "empty")
    assert project.now() == data
    assert project.saved() == []


def test_linked_work_tree_with_a_volume_of_its_own(project: Project, tmp_path: Path) -> None:
    first = project.commit()
    linked = tmp_path / "linked"
    project.git("config", "extensions.worktreeConfig", "true")
    project.git("worktree", "add", "-q", "-b", "side", str(linked))
    volume = f"{project.data.name}-side"
    project.lake.snap("clone", f"{project.data.name}@{first}", volume, "--store", str(project.lake.store))
    project.lake.snap("git", "install", "--volume", volume, "--store", str(project.lake.store), cwd=linked)
    project.lake.snap("create", volume, f"--git-commit={first}", cwd=linked)
    (project.lake.point / volume / "side").write_text("side")
    project.git("commit", "-q", "--allow-empty", "-m", "side", cwd=linked)
    project.is_right()
    project.git("checkout", "-q", "--detach", first, cwd=linked)
    assert not (project.lake.point / volume / "side").exists()
    project.git("checkout", "-q", "side", cwd=linked)
    assert (project.lake.point / volume / "side").read_text() == "side"
    project.is_right()


def test_unsaved_data_is_saved_before_a_switch(project: Project) -> None:
    first, second = project.commit(), project.commit()
    (project.data / "unsaved").write_text("not committed")
    unsaved = project.now()
    project.git("checkout", "-q", first)
    project.is_right()
    (name,) = project.saved()
    assert name in project.told
    assert read_data(project.data / ".snap" / name) == unsaved
    project.git("checkout", "-q", second)
    project.is_right()
    project.lake.snap("checkout", f"{project.data.name}@{name}", "--store", str(project.lake.store))
    assert project.now() == unsaved


def test_reset_needs_sync_and_a_commit_without_it_is_told(project: Project) -> None:
    first, second = project.commit(), project.commit()
    project.git("reset", "-q", "--hard", first)
    assert project.now() == project.noted[second]
    project.lake.snap("git", "sync", cwd=project.root)
    project.is_right()
    project.git("reset", "-q", "--hard", second)
    project.git("commit", "-q", "--allow-empty", "-m", "on the data of another commit")
    assert "snap git sync" in project.told
    project.note()
    project.git("reset", "-q", "--hard", first)
    project.lake.snap("git", "sync", "--discard", cwd=project.root)
    project.is_right()
    project.visit_all()


def test_facts_are_recorded(project: Project) -> None:
    project.git("remote", "add", "origin", "https://user:secret@example.org/x.git")
    project.commit("one")
    (project.root / "one").write_text("dirty")
    (project.root / "two").write_text("two")
    project.git("add", "two")
    project.git("commit", "-q", "-m", "partial\tü", "--", "two")
    commit = project.head()
    shown = json.loads(project.lake.snap("show", f"@{commit[:8]}", "--json", cwd=project.root))
    assert shown["name"] == commit
    assert shown["git"] == {
        "commit": commit,
        "branch": "main",
        "subject": "partial\tü",
        "author": "Ada <ada@example.org>",
        "remote": "https://example.org/x.git",
        "dirty": True,
    }
    project.git("commit", "-q", "-a", "-m", "all")
    assert not json.loads(project.lake.snap("show", f"@{project.head()}", "--json", cwd=project.root))["git"]["dirty"]


def test_commit_again_for_the_same_commit(project: Project) -> None:
    commit = project.commit()
    name = project.data.name
    again = json.loads(project.lake.snap("create", name, "--git-commit", "--json", cwd=project.root))
    assert (again["name"], again["created"]) == (commit, False)
    project.change()
    more = json.loads(project.lake.snap("create", name, "--git-commit", "--json", cwd=project.root))
    assert (more["name"], more["created"]) == (f"{commit}.2", True)
    data = project.note()
    project.commit()
    project.git("checkout", "-q", data)
    project.is_right()


def test_sha256_repository(mounted: Mounted, tmp_path: Path) -> None:
    project = make_project(mounted, tmp_path / "code", "sha256", "--object-format=sha256")
    fork, _ = diverged(project)
    assert len(fork) == 64
    old = project.between(fork)
    project.git("rebase", "-q", "main")
    project.rewritten(old, project.between("main"))
    project.is_right()
    project.visit_all()


def test_repository_told_by_the_environment(project: Project, tmp_path: Path) -> None:
    first = project.commit()
    project.commit()
    elsewhere = {"GIT_DIR": str(project.root / ".git"), "GIT_WORK_TREE": str(project.root)}
    project.git("checkout", "-q", first, cwd=tmp_path, **elsewhere)
    project.is_right()
    project.git("commit", "-q", "--allow-empty", "-m", "from elsewhere", cwd=tmp_path, **elsewhere)
    project.note()
    project.visit_all()


def test_hooks_that_exist_still_run(project: Project) -> None:
    hooks = project.root / "my hooks"
    hooks.mkdir()
    seen = project.root / "seen"
    (hooks / "post-commit").write_text(f"#!/bin/sh\necho commit >> '{seen}'\nexit 0\n")
    (hooks / "post-rewrite").write_text(
        f"#!/usr/bin/env python3\nimport sys\nopen({str(seen)!r}, 'a').write(sys.stdin.read())\n"
    )
    for hook in hooks.iterdir():
        hook.chmod(0o755)
    project.git("config", "core.hooksPath", "my hooks")
    project.lake.snap("git", "install", cwd=project.root)
    first = project.commit()
    project.git("commit", "-q", "--amend", "-m", "amended")
    amended = project.note()
    assert seen.read_text().splitlines() == ["commit", "commit", f"{first} {amended}"]
    project.visit_all()
    project.lake.snap("git", "uninstall", cwd=project.root)
    assert sorted(os.listdir(hooks)) == ["post-commit", "post-rewrite"]
    project.git("commit", "-q", "--allow-empty", "-m", "unfollowed")
    assert "snapfs" not in project.told


def test_status_tells(project: Project) -> None:
    project.commit()
    status = json.loads(project.lake.snap("git", "status", "--json", cwd=project.root))
    assert status["volume"] == project.data.name
    assert [hook["current"] for hook in status["hooks"]] == [True] * 4
    assert "in place" in status["data"]
    assert "not in place" not in status["data"]
    project.git("commit", "-q", "--allow-empty", "-m", "x")
    project.git("reset", "-q", "--hard", "HEAD~1")
    assert "not in place" in project.lake.snap("git", "status", cwd=project.root)
    project.lake.snap("git", "uninstall", cwd=project.root)
    assert "no volume follows" in project.lake.snap("git", "status", cwd=project.root)


# -- a hook never fails git ------------------------------------------------------------------------------


def one_line(project: Project) -> str:
    ours = [line for line in project.told.splitlines() if "snapfs" in line]
    assert len(ours) == 1, project.told
    return ours[0]


def test_no_snapshot_for_a_commit(project: Project) -> None:
    first = project.commit()
    project.commit()
    project.lake.snap("rm", f"@{first}", cwd=project.root)
    data = project.now()
    project.git("checkout", "-q", first)
    assert "left as it is" in one_line(project)
    assert project.now() == data


def test_volume_or_store_gone(project: Project, tmp_path: Path) -> None:
    project.commit()
    project.git("config", "snapfs.volume", "gone")
    project.git("commit", "-q", "--allow-empty", "-m", "x")
    assert "gone" in one_line(project)
    project.git("checkout", "-q", "HEAD~1")
    assert "gone" in one_line(project)
    project.git("config", "snapfs.store", str(tmp_path / "nowhere"))
    project.git("checkout", "-q", "main")
    assert "nowhere" in one_line(project)
    project.git("config", "--unset", "snapfs.store")
    project.git("commit", "-q", "--allow-empty", "-m", "y")
    assert "snap git install" in one_line(project)


def test_without_daemon_the_store_is_opened_directly(mounted: Mounted, tmp_path: Path) -> None:
    store = tmp_path / "store"
    mounted.snap("init", str(store))
    root = tmp_path / "code"
    root.mkdir()
    project = Project(mounted, root, tmp_path)
    project.git("init", "-q", "-b", "main")
    mounted.snap("volume", "create", "only", "--store", str(store))
    mounted.snap("git", "install", "--store", str(store), cwd=root)
    project.git("commit", "-q", "--allow-empty", "-m", "x")
    assert "holds this commit's data" in one_line(project)
    listed = json.loads(mounted.snap("list", "--store", str(store), "--json", cwd=root))
    assert [entry["name"] for entry in listed] == [project.head()]
    with (store / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody who does not answer
        project.git("commit", "-q", "--allow-empty", "-m", "y")
    assert "in use" in one_line(project)
