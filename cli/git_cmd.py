"""``snap git install|uninstall|status|sync``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from snapfs import errors
from snapfs.git import hooks
from snapfs.git.repository import Repository, executable_path

from . import output
from .options import common, json_option


def _repository() -> Repository:
    from .session import current_directory

    directory = current_directory()
    if directory is None:
        raise errors.NotFound("the current directory was deleted")
    return Repository(directory, os.environ)


def own_executable() -> Path:
    """Absolute path of this command, for the hooks: as it was started, else as PATH has it."""
    started = Path(sys.argv[0])
    if started.name in ("snap", "snapfs") and started.is_file() and os.access(started, os.X_OK):
        return started.absolute()
    beside = Path(sys.executable).parent / "snapfs"
    if beside.is_file():
        return beside
    found = executable_path("snapfs", os.environ.get("PATH", os.defpath))
    if found is None:
        raise errors.Unavailable("cannot tell where the command snapfs is", hint="put it on PATH")
    return found


@click.group("git")
def command() -> None:
    """Let a volume follow a git repository.

    \b
    Examples:
      snap git install --volume digits
      snap git status
      snap git sync
      snap git uninstall
    """


@command.command("install")
@click.option("--volume", default="", help="The volume that follows.  [default: as for other verbs]")
@common
def install(volume: str, store: str, as_json: bool) -> None:
    """Bind the repository around the current directory to a volume, and write the hooks.

    Every commit then snapshots the volume under the commit's ID; checkouts, bisects, merges and rebases bring
    the data along. Hooks that exist are kept.  Doing it again is harmless.

    \b
    Examples:
      snap git install --volume digits
      snap git install --volume digits --store /data/store
    """
    from .session import opened

    repository = _repository()
    with opened(store) as (place, calls):
        chosen = place.volume(calls, volume)
        calls.list_snapshots(volume=chosen)  # refuses a volume that is not there
        path = place.store.resolve()
    directory = repository.hooks_directory()
    hooks.install(directory, own_executable())
    repository.bind(store=path, volume=chosen)
    states = hooks.status(directory, own_executable())
    if as_json:
        output.document({"store": str(path), "volume": chosen, "hooks": states})
        return
    output.line(f"{output.quote(chosen)} now follows this repository")
    for state in states:
        beside = f"  (with {output.quote(state.beside)})" if state.beside else ""
        output.line(f"  {output.quote(state.path)}{beside}")


@command.command("uninstall")
@json_option
def uninstall(as_json: bool) -> None:
    """Take our lines out of the hooks, put kept hooks back, and forget the binding.

    Snapshots stay.

    \b
    Examples:
      snap git uninstall
    """
    repository = _repository()
    removed = hooks.uninstall(repository.hooks_directory())
    bound = repository.unbind()
    if as_json:
        output.document({"hooks": removed, "unbound": bound})
    elif removed or bound:
        output.line(f"removed: {', '.join([*removed, *(['the binding'] if bound else [])])}")
    else:
        output.line("nothing of snapfs was there")


@command.command("status")
@json_option
def status(as_json: bool) -> None:
    """Show the binding, the hooks, and whether HEAD's data is saved and in place.

    \b
    Examples:
      snap git status
      snap git status --json
    """
    repository = _repository()
    states = hooks.status(repository.hooks_directory(), own_executable())
    bound, volume = repository.store, repository.volume
    data = _data_state(repository, bound, volume) if bound is not None and volume else ""
    if as_json:
        output.document({"store": str(bound or ""), "volume": volume, "hooks": states, "data": data})
        return
    if bound is None or not volume:
        output.line("no volume follows this repository")
    else:
        output.line(f"{output.quote(volume)} of {output.quote(str(bound))} follows this repository")
        output.line(f"data: {data}")
    for state in states:
        told = "installed" if state.current else "installed, of another version" if state.installed else "missing"
        beside = f", with {output.quote(state.beside)}" if state.beside else ""
        output.line(f"  {state.name:<13}  {told}{beside}")


def _data_state(repository: Repository, store: Path, volume: str) -> str:
    """One phrase on HEAD's snapshot; a store that cannot be asked is part of the answer, not an error."""
    from snapfs.git.follow import commit_of, short

    from .session import connected

    try:
        head = repository.resolve("HEAD")
        with connected(store) as calls:
            bases = [entry.parent for entry in calls.list_volumes() if entry.name == volume]
            if not bases:
                return f"the store has no volume {output.quote(volume)}"
            try:
                calls.get_snapshot(volume=volume, snapshot=head)
            except errors.NotFound:
                return f"no snapshot of HEAD ({short(head)})"
        place = "in place" if commit_of(bases[0]) == head else "not in place (snap git sync)"
        return f"snapshot of HEAD ({short(head)}) is there, {place}"
    except errors.SnapfsError as error:
        return output.one_line(error.message)


@command.command("sync")
@click.option("--save", is_flag=True, help="Snapshot unsaved changes first (as the hooks do); the default.")
@click.option("--discard", is_flag=True, help="Throw unsaved changes away.")
@common
def sync(save: bool, discard: bool, store: str, as_json: bool) -> None:
    """Bring the data to HEAD's snapshot now.

    For what calls no hook: git reset, an aborted rebase, a stop inside a rebase.

    \b
    Examples:
      git reset --hard HEAD~1 && snap git sync
      snap git sync --discard
    """
    from snapfs import api
    from snapfs.git.follow import Follower

    from .checkout_cmd import print_checkout
    from .session import connected

    if save and discard:
        raise click.UsageError("--save and --discard exclude each other")
    repository = _repository()
    bound = Path(store).absolute() if store else repository.store
    if bound is None or not repository.volume:
        raise errors.NotFound("no volume follows this repository", hint="snap git install --volume NAME")
    with connected(bound) as calls:
        follower = Follower(repository, calls, repository.volume, lambda text: click.echo(text, err=True))
        done = follower.sync(unsaved=api.Save.DISCARD if discard else api.Save.SAVE)
    print_checkout(done, as_json=as_json)
