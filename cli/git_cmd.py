"""``snap git install|uninstall|status|sync|note``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from snapfs import errors
from snapfs.client import addresses
from snapfs.git import hooks
from snapfs.git.repository import Binding, Repository, executable_path

from . import output
from .options import common, invocation, json_option

if TYPE_CHECKING:
    from snapfs.client import Client

    from .session import Place, Shown


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
      snap git install --server --volume digits --address unix:/data/store/control/socket
      snap git status
      snap git sync
      snap git note --all-missing
      snap git uninstall
    """


@command.command("install")
@click.option("--volume", default="", help="The volume that follows.  [default: as for other verbs]")
@click.option("--server", is_flag=True, help="Snapshot what is pushed into this repository (post-receive).")
@common
def install(volume: str, server: bool, store: str, as_json: bool) -> None:
    """Bind the repository around the current directory to a volume, and write the hooks.

    Every commit then snapshots the volume under the commit's ID; checkouts, bisects, merges and rebases bring
    the data along. With --server, in the repository that others push to, every branch that is pushed gets a
    snapshot, and nothing else happens. Hooks that exist are kept.  Doing it again is harmless.

    \b
    Examples:
      snap git install --volume digits
      snap git install --volume digits --store /data/store
      snap git install --volume digits --address lake.example.org:7432 --token-file ~/.snapfs-token
      cd /srv/git/digits.git && snap git install --server --volume digits --store /data/store
    """
    from .session import TOKEN_VARIABLE, connected, here

    repository = _repository()
    place, shown = here(store)
    with connected(place.local, address=place.address, shown=shown) as calls:
        chosen = place.volume(calls, volume)
        calls.get_volume(name=chosen)  # refuses a volume that is not there
    binding = _binding(place, shown, chosen)
    names = hooks.SERVER_HOOK_NAMES if server else hooks.HOOK_NAMES
    directory = repository.hooks_directory()
    hooks.install(directory, own_executable(), names)
    repository.bind(binding)
    states = hooks.status(directory, own_executable(), names)
    if binding.address and not binding.token_file and os.environ.get(TOKEN_VARIABLE):
        click.echo(f"note: the hooks will need {TOKEN_VARIABLE}, too; --token-file is remembered", err=True)
    if as_json:
        output.document({"store": binding.store, "address": binding.address, "volume": chosen, "hooks": states})
        return
    output.line(
        f"{output.quote(chosen)} now follows " + ("pushes into this repository" if server else "this repository")
    )
    for state in states:
        beside = f"  (with {output.quote(state.beside)})" if state.beside else ""
        output.line(f"  {output.quote(state.path)}{beside}")


def _binding(place: Place, shown: Shown, volume: str) -> Binding:
    """What hooks need to find the way again, from any directory."""
    from .session import TOKEN_FILE_VARIABLE

    if not place.address:
        return Binding(volume=volume, store=str(place.store.resolve()))
    target = addresses.parse(place.address)
    address = place.address
    if target.owner is not None:
        address = str(target.owner.parent.parent)
    elif target.socket is not None:
        address = f"unix:{target.socket}"
    files = shown.complete() if target.tls else shown
    token_file = shown.token_file or os.environ.get(TOKEN_FILE_VARIABLE, "")
    paths = (token_file, files.ca, files.certificate, files.key)
    return Binding(volume, "", address, *(str(Path(path).absolute()) if path else "" for path in paths))


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
    unbound = repository.unbind()
    if as_json:
        output.document({"hooks": removed, "unbound": unbound})
    elif removed or unbound:
        output.line(f"removed: {', '.join([*removed, *(['the binding'] if unbound else [])])}")
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
    states = _hook_states(repository)
    binding = repository.binding
    data = _data_state(repository, binding) if binding.complete else ""
    if as_json:
        found = {"store": binding.store, "address": binding.address, "volume": binding.volume}
        output.document({**found, "hooks": states, "data": data})
        return
    if not binding.complete:
        output.line("no volume follows this repository")
    else:
        where = output.quote(binding.address or binding.store)
        output.line(f"{output.quote(binding.volume)} of {where} follows this repository")
        output.line(f"data: {data}")
    for state in states:
        told = "installed" if state.current else "installed, of another version" if state.installed else "missing"
        beside = f", with {output.quote(state.beside)}" if state.beside else ""
        output.line(f"  {state.name:<13}  {told}{beside}")


def _hook_states(repository: Repository) -> list[hooks.HookState]:
    """Of a clone's hooks, of a server's, or of both where both are installed."""
    directory, executable = repository.hooks_directory(), own_executable()
    clone = hooks.status(directory, executable)
    server = hooks.status(directory, executable, hooks.SERVER_HOOK_NAMES)
    if not any(state.installed for state in server):
        return clone
    return [*(clone if any(state.installed for state in clone) else []), *server]


def _data_state(repository: Repository, binding: Binding) -> str:
    """One phrase on HEAD's snapshot; a store that cannot be asked is part of the answer, not an error."""
    from snapfs.git.follow import commit_of, short

    from .git_binding import bound, checked

    try:
        head = repository.resolve("HEAD")
        with bound(checked(binding)) as calls:
            base = calls.get_volume(name=binding.volume).parent
            try:
                calls.get_snapshot(volume=binding.volume, snapshot=head)
            except errors.NotFound:
                return f"no snapshot of HEAD ({short(head)})"
        place = "in place" if commit_of(base) == head else "not in place (snap git sync)"
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

    from .verbs import print_checkout

    if save and discard:
        raise click.UsageError("--save and --discard exclude each other")
    repository = _repository()
    with _store_of(repository, store) as calls:
        def say(text: str) -> None:
            click.echo(output.one_line(text), err=True)

        follower = Follower(repository, calls, repository.volume, say)
        done = follower.sync(unsaved=api.Save.DISCARD if discard else api.Save.SAVE)
    if as_json:
        output.document(done)
    else:
        print_checkout(done, done.saved)


@command.command("note")
@click.argument("snapshot", metavar="[VOLUME@SNAPSHOT]", default="")
@click.option("--all-missing", is_flag=True, help="Of every commit here that has a snapshot and no note of it.")
@common
def note(snapshot: str, all_missing: bool, store: str, as_json: bool) -> None:
    """Note the seals of snapshots with their commits (git notes --ref=snapfs).

    `snap verify --note` proves from there, later and elsewhere, that a snapshot is what it was.  With
    `git config snapfs.notes true` the hooks do it at every commit.  Notes are shared only if you push them:
    git push ORIGIN refs/notes/snapfs.

    \b
    Examples:
      snap git note digits@4f2a9c1
      snap git note --all-missing
      git log --notes=snapfs
    """
    from snapfs.git import notes

    from .addresses import parse
    from .session import opened

    if bool(snapshot) == all_missing:
        raise click.UsageError("name a snapshot, or give --all-missing")
    repository = _repository()
    if all_missing:
        with _store_of(repository, store) as calls:
            if not repository.volume:
                raise errors.NotFound("no volume follows this repository", hint="name a snapshot")
            noted = notes.note_missing(repository, calls.list_snapshots(volume=repository.volume))
    else:
        with opened(store) as (place, calls):
            volume, name = place.snapshot(calls, parse(snapshot))
            found = notes.awaited(calls, calls.get_snapshot(volume=volume, snapshot=name), notes.COMMAND_SECONDS)
            if not found.seal:
                raise errors.Unavailable(f"snapshot {name!r} is not sealed yet", hint="try again later")
            noted = [found] if notes.note(repository, found) else []
    if as_json:
        output.document([{"volume": s.volume, "snapshot": s.name, "seal": s.seal} for s in noted])
        return
    for sealed in noted:
        output.line(f"{output.address(sealed.volume, sealed.name)} {sealed.seal}")
    if not noted:
        output.line("nothing to note: it is there already")


@contextmanager
def _store_of(repository: Repository, store: str) -> Iterator[Client]:
    """A client of the store that the options name, else of the one that git names."""
    from .git_binding import bound, checked
    from .session import connected, here

    given = invocation()
    if not repository.volume or not (store or given.address):
        with bound(checked(repository.binding)) as calls:
            yield calls
        return
    place, shown = here(store)
    with connected(place.local, address=place.address, shown=shown) as calls:
        yield calls
