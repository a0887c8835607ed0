"""The pipelines of integrations/, as they stand, against a real daemon behind TLS and a real git remote.

GitHub's workflow is run by act without containers.  GitLab's jobs are put together from the YAML as its runner does,
and Jenkins's shell steps are files: both run in the shells that those systems use, on a fresh clone whose HEAD is
detached.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from snapfs.testing.served import SCRIPTS, ServedStore

pytestmark = pytest.mark.timeout(180)

INTEGRATIONS = Path(__file__).parents[2] / "integrations"

TRAIN = """#!/bin/sh -e
# Learns from DATA/input, writes DATA/model where it can; tells what it saw.
cat "$1/input"
[ -e "$1/broken" ] && exit 9
(echo trained > "$1/model") 2> /dev/null || echo "there is nowhere to write"
if [ -n "${SNAPFS_TOKEN:-}" ]; then echo "the token is in sight"; fi
"""


@dataclass
class Project:
    """A repository that was pushed to a git server, and the data that belongs to its commit."""

    lake: ServedStore
    root: Path
    remote: Path
    clones: int = 0

    def commit(self, text: str, files: Mapping[str, Path]) -> str:
        """Data and code of a new commit, pushed; ``files`` are directories or files to take along, by path."""
        (self.lake.data / "input").write_text(f"input {text}\n")
        (self.root / "train.sh").write_text(TRAIN + f"# {text}\n")
        (self.root / "train.sh").chmod(0o755)
        for path, source in files.items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        self.lake.run("git", "add", "-A", cwd=self.root)
        self.lake.run("git", "commit", "-q", "-m", text, cwd=self.root)
        self.lake.run("git", "push", "-q", "origin", "HEAD:main", cwd=self.root)
        return self.lake.run("git", "rev-parse", "HEAD", cwd=self.root).strip()

    def checked_out(self, commit: str) -> Path:
        """A fresh clone with a detached HEAD, as systems that build make it."""
        self.clones += 1
        place = self.root.with_name(f"build-{self.clones}")
        self.lake.run("git", "clone", "-q", "--no-checkout", "--depth", "1", f"file://{self.remote}", place)
        self.lake.run("git", "checkout", "-q", "--detach", commit, cwd=place)
        return place

    def is_snapshotted(self, commit: str) -> None:
        shown = self.lake.json("show", f"digits@{commit}")
        assert (shown["name"], shown["git"]["commit"]) == (commit, commit)
        assert (shown["git"]["branch"], shown["git"]["dirty"]) == ("main", False)
        assert (self.lake.data / ".snap" / commit / "input").exists()

    def working_copies(self) -> list[str]:
        return [volume["name"] for volume in self.lake.json("volume", "list") if volume["name"] != "digits"]


@pytest.fixture
def project(served: ServedStore, tmp_path: Path) -> Project:
    made = Project(served, tmp_path / "project", tmp_path / "project.git")
    served.run("git", "init", "-q", "--bare", "-b", "main", made.remote)
    served.run("git", "clone", "-q", made.remote, made.root)
    for old in served.data.iterdir():
        old.unlink()
    return made


@pytest.fixture(scope="module")
def access(served: ServedStore) -> Mapping[str, str]:
    """What lets a pipeline reach the daemon."""
    return served.remote(served.token("pipeline", "operator"))


# -- GitHub Actions


def act(project: Project, access: Mapping[str, str], workflow: str = "data.yml") -> subprocess.CompletedProcess[str]:
    variables = {"SNAPFS_ADDRESS": access["SNAPFS_ADDRESS"], "SNAPFS_LAKE": str(project.lake.point)}
    command = [SCRIPTS / "act", "push", "-W", f".github/workflows/{workflow}", "-P", "self-hosted=-self-hosted"]
    command += [word for name, value in variables.items() for word in ("--var", f"{name}={value}")]
    secrets = project.root.with_name("secrets")  # act's own environment would be that of all steps, too
    secrets.touch(mode=0o600)
    secrets.write_text(f"SNAPFS_TOKEN={access['SNAPFS_TOKEN']}\n")
    runner = {"SNAPFS_CA": access["SNAPFS_CA"]}
    return project.lake.done(*command, "--secret-file", secrets, cwd=project.root, extra=runner)


def test_github_workflow_snapshots_and_trains(project: Project, access: Mapping[str, str]) -> None:
    commit = project.commit("github", {".github": INTEGRATIONS / "github-actions"})
    done = act(project, access)
    assert done.returncode == 0, done.stdout + done.stderr
    project.is_snapshotted(commit)
    assert f"Train on digits@{commit}" in done.stdout
    assert "input github" in done.stdout
    assert "the token is in sight" not in done.stdout
    assert access["SNAPFS_TOKEN"] not in done.stdout + done.stderr
    assert project.working_copies() == []
    assert not (project.lake.data / "model").exists(), "training wrote to its own copy"


def test_github_workflow_fails_with_the_training_and_cleans_up(project: Project, access: Mapping[str, str]) -> None:
    (project.lake.data / "broken").touch()
    commit = project.commit("github, broken", {".github": INTEGRATIONS / "github-actions"})
    done = act(project, access)
    assert done.returncode != 0
    project.is_snapshotted(commit)
    assert "input github, broken" in done.stdout
    assert project.working_copies() == []


def test_github_checkout_to_read_only(project: Project, access: Mapping[str, str], tmp_path: Path) -> None:
    workflow = tmp_path / "read.yml"
    workflow.write_text("""
on: push
jobs:
  evaluate:
    runs-on: [self-hosted, snapfs]
    steps:
      - uses: actions/checkout@v4
      - id: data
        uses: ./.github/actions/snapfs-checkout
        with:
          address: ${{ vars.SNAPFS_ADDRESS }}
          token: ${{ secrets.SNAPFS_TOKEN }}
          volume: digits
          lake: ${{ vars.SNAPFS_LAKE }}
      - run: ./train.sh "$DATA"
        env:
          DATA: ${{ steps.data.outputs.path }}
""")
    files = {".github": INTEGRATIONS / "github-actions", ".github/workflows/read.yml": workflow}
    commit = project.commit("github, to read", files)
    done = act(project, access, "read.yml")
    assert done.returncode != 0, "there is no snapshot yet"
    assert re.search(rf"snapfs: .*no snapshot.*{commit}|snap: .*{commit}", done.stdout)
    project.lake.run("snap", "create", "digits", "--git-commit", cwd=project.root, extra=access)
    (project.lake.data / "input").write_text("later\n")
    done = act(project, access, "read.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "input github, to read" in done.stdout
    assert "there is nowhere to write" in done.stdout
    assert "the token is in sight" not in done.stdout


# -- GitLab


def gitlab_jobs(repository: Path) -> dict[str, Any]:
    """The pipeline's configuration with its includes; keys that are no jobs are among them."""
    jobs: dict[str, Any] = {}
    main = yaml.safe_load((repository / ".gitlab-ci.yml").read_text())
    for included in main.pop("include"):
        jobs |= yaml.safe_load((repository / included["local"]).read_text())
    return jobs | main


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As ``extends`` does it: tables are merged, all else is replaced."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def gitlab_job(jobs: Mapping[str, Any], name: str) -> dict[str, Any]:
    job = dict(jobs[name])
    base = job.pop("extends", None)
    return merged(gitlab_job(jobs, base), job) if base else job


def run_gitlab(
    project: Project, jobs: Mapping[str, Any], name: str, commit: str, number: int, access: Mapping[str, str]
) -> tuple[int, str]:
    """Exit code and output of one job, run as the shell executor runs it."""
    job = gitlab_job(jobs, name)
    place = project.checked_out(commit)
    predefined = {"CI_COMMIT_SHA": commit, "CI_COMMIT_REF_NAME": "main", "CI_JOB_ID": str(number)}
    variables = {**access, "SNAPFS_LAKE": str(project.lake.point), **predefined}
    for key, value in {**jobs["variables"], **job.get("variables", {})}.items():
        variables[key] = re.sub(r"\$(CI_\w+)", lambda match: predefined[match.group(1)], value)
    dotenv = project.root.with_name("snapfs.env")
    if dotenv.exists():  # the report of the job before
        variables |= dict(line.split("=", 1) for line in dotenv.read_text().splitlines())
    lines = [*job.get("before_script", []), *job["script"]]
    main = project.lake.done("bash", "-eo", "pipefail", "-c", "\n".join(lines), cwd=place, extra=variables)
    text = "\n".join(job.get("after_script", []))
    after = project.lake.done("bash", "-eo", "pipefail", "-c", text, cwd=place, extra=variables)
    assert after.returncode == 0, after.stderr
    report = job.get("artifacts", {}).get("reports", {}).get("dotenv")
    if report:
        shutil.copy(place / report, dotenv)
    return main.returncode, main.stdout + main.stderr


def gitlab_files() -> dict[str, Path]:
    folder = INTEGRATIONS / "gitlab"
    return {".gitlab-ci.yml": folder / ".gitlab-ci.yml", ".gitlab/snapfs.yml": folder / "snapfs.yml"}


def test_gitlab_pipeline_snapshots_and_trains(project: Project, access: Mapping[str, str]) -> None:
    commit = project.commit("gitlab", gitlab_files())
    jobs = gitlab_jobs(project.root)
    code, told = run_gitlab(project, jobs, "snapshot", commit, 1, access)
    assert code == 0, told
    project.is_snapshotted(commit)
    (project.lake.data / "input").write_text("later\n")
    code, told = run_gitlab(project, jobs, "train", commit, 2, access)
    assert code == 0, told
    assert f"train on digits@{commit}\n" in told
    assert "input gitlab" in told
    assert project.working_copies() == []


def test_gitlab_checkout_to_read_only(project: Project, access: Mapping[str, str]) -> None:
    commit = project.commit("gitlab, to read", gitlab_files())
    evaluate = {"extends": ".snapfs-checkout", "script": ['./train.sh "$SNAPFS_DATA"']}
    jobs = gitlab_jobs(project.root) | {"evaluate": evaluate}
    code, told = run_gitlab(project, jobs, "evaluate", commit, 1, access)
    assert code == 3, told
    run_gitlab(project, jobs, "snapshot", commit, 2, access)
    code, told = run_gitlab(project, jobs, "evaluate", commit, 3, access)
    assert code == 0, told
    assert "input gitlab, to read" in told
    assert "there is nowhere to write" in told
    assert project.working_copies() == []


def test_gitlab_job_that_fails_leaves_no_copy(project: Project, access: Mapping[str, str]) -> None:
    (project.lake.data / "broken").touch()
    commit = project.commit("gitlab, broken", gitlab_files())
    jobs = gitlab_jobs(project.root)
    run_gitlab(project, jobs, "snapshot", commit, 1, access)
    code, told = run_gitlab(project, jobs, "train", commit, 2, access)
    assert code == 9, told
    assert project.working_copies() == []


def test_gitlab_job_whose_name_is_taken_removes_nothing(project: Project, access: Mapping[str, str]) -> None:
    commit = project.commit("gitlab, taken", gitlab_files())
    jobs = gitlab_jobs(project.root)
    run_gitlab(project, jobs, "snapshot", commit, 1, access)
    project.lake.snap("volume", "create", "digits-job-2")
    (project.lake.point / "digits-job-2/precious").touch()
    code, told = run_gitlab(project, jobs, "train", commit, 2, access)
    assert code == 4, told
    assert project.working_copies() == ["digits-job-2"]
    assert (project.lake.point / "digits-job-2/precious").exists()
    project.lake.snap("volume", "rm", "--snapshots", "digits-job-2")


# -- Jenkins

RESOURCES = INTEGRATIONS / "jenkins/resources"


def run_jenkins(
    project: Project, place: Path, name: str, access: Mapping[str, str], **settings: str
) -> subprocess.CompletedProcess[str]:
    """A step of the library, as `sh` runs it: with -xe, its stdout returned."""
    script = (RESOURCES / "snapfs" / f"{name}.sh").read_text()
    return project.lake.done("sh", "-xe", "-c", script, cwd=place, extra={**access, **settings})


def test_jenkins_steps(project: Project, access: Mapping[str, str]) -> None:
    commit = project.commit("jenkins", {"Jenkinsfile": INTEGRATIONS / "jenkins/Jenkinsfile"})
    place = project.checked_out(commit)
    made = run_jenkins(project, place, "snapshot", access, VOLUME="digits", BRANCH="main")
    assert (made.returncode, made.stdout) == (0, f"digits@{commit}\n"), made.stderr
    again = run_jenkins(project, place, "snapshot", access, VOLUME="digits", BRANCH="main")
    assert (again.returncode, again.stdout) == (0, f"digits@{commit}\n"), "the remark is no part of the name"
    project.is_snapshotted(commit)
    assert access["SNAPFS_TOKEN"] not in made.stderr, "-x shows commands, not the environment"

    (project.lake.data / "input").write_text("later\n")
    settings = {"VOLUME": "digits", "LAKE": str(project.lake.point), "COMMIT": "", "INTO": ""}
    read = run_jenkins(project, place, "checkout", access, **settings)
    assert read.stdout == f"{project.lake.data}/.snap/{commit}\n", read.stderr
    settings |= {"COMMIT": commit, "INTO": "digits-jenkins-1"}
    work = run_jenkins(project, place, "checkout", access, **settings)
    assert work.stdout == f"{project.lake.point}/digits-jenkins-1\n", work.stderr
    told = project.lake.run("./train.sh", work.stdout.strip(), cwd=place)
    assert told == "input jenkins\n"
    assert (project.lake.point / "digits-jenkins-1/model").read_text() == "trained\n"
    removed = run_jenkins(project, place, "remove", access, **settings)
    assert removed.returncode == 0, removed.stderr
    assert project.working_copies() == []


def test_jenkins_checkout_without_a_snapshot_or_without_the_mount(
    project: Project, access: Mapping[str, str], tmp_path: Path
) -> None:
    commit = project.commit("jenkins, nothing there", {})
    place = project.checked_out(commit)
    settings = {"VOLUME": "digits", "LAKE": str(tmp_path), "COMMIT": "", "INTO": ""}
    missing = run_jenkins(project, place, "checkout", access, **settings)
    assert (missing.returncode, missing.stdout) == (3, "")
    run_jenkins(project, place, "snapshot", access, VOLUME="digits", BRANCH="main")
    unmounted = run_jenkins(project, place, "checkout", access, **settings)
    assert (unmounted.returncode, unmounted.stdout) == (1, "")
    assert f"is the lake mounted at {tmp_path}?" in unmounted.stderr


def test_jenkins_library_sets_what_its_scripts_use() -> None:
    """Groovy does not run here: what of it can be checked is."""
    groovy = {path.stem: path.read_text() for path in (INTEGRATIONS / "jenkins/vars").glob("*.groovy")}
    assert set(groovy) == {"snapfsSnapshot", "snapfsCheckout"}
    assert {path.stem for path in (INTEGRATIONS / "jenkins/vars").glob("*.txt")} == set(groovy), "the help of each"
    steps = {"snapfsSnapshot": ["snapshot"], "snapfsCheckout": ["checkout", "remove"]}
    for name, scripts in steps.items():
        set_there = set(re.findall(r'"([A-Z]+)=\$\{', groovy[name]))
        for script in scripts:
            used = set(re.findall(r"\$\{?([A-Z]+)", (RESOURCES / "snapfs" / f"{script}.sh").read_text()))
            assert used <= set_there, (name, script)
            assert f"'{script}'" in groovy[name] or f"snapfs/{script}.sh" in groovy[name]
    assert sorted(path.stem for path in (RESOURCES / "snapfs").iterdir()) == ["checkout", "remove", "snapshot"]
    jenkinsfile = (INTEGRATIONS / "jenkins/Jenkinsfile").read_text()
    assert set(re.findall(r"\bsnapfs[A-Z]\w+", jenkinsfile)) == set(groovy)
