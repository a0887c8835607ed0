"""Entry point of ``snap`` and ``snapfs``: finds the verb, runs it, turns errors into one line and an exit
code.

Verbs are imported when they are used, and what libraries import but hardly need later still (``startup``): with a
daemon running, a command costs little more than Python's own start.  Git's hooks (``snap git hook NAME ...``, written
by ``snap git install``) and plain command lines of a few verbs (``quick``) go around click for the same reason.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import quick, startup

if TYPE_CHECKING:
    from .invocation import Invocation

VERBS: Final = {
    "init": "init_cmd",
    "mount": "mount_cmd",
    "umount": "umount_cmd",
    "volume": "volume_cmd",
    "create": "create_cmd",
    "list": "list_cmd",
    "show": "show_cmd",
    "log": "log_cmd",
    "diff": "diff_cmd",
    "status": "status_cmd",
    "checkout": "checkout_cmd",
    "restore": "restore_cmd",
    "clone": "clone_cmd",
    "rename": "rename_cmd",
    "tag": "tag_cmd",
    "rm": "rm_cmd",
    "undelete": "undelete_cmd",
    "trash": "trash_cmd",
    "hold": "hold_cmd",
    "release": "release_cmd",
    "lock": "lock_cmd",
    "policy": "policy_cmd",
    "du": "du_cmd",
    "space": "space_cmd",
    "optimize": "optimize_cmd",
    "import": "import_cmd",
    "export": "export_cmd",
    "watch": "watch_cmd",
    "git": "git_cmd",
    "info": "info_cmd",
    "fsck": "fsck_cmd",
    "verify": "verify_cmd",
    "scrub": "scrub_cmd",
    "daemon": "daemon_cmd",
    "config": "config_cmd",
    "token": "token_cmd",
    "audit": "audit_cmd",
    "completion": "completion_cmd",
}
"""Module of each verb, in the order of the help; each defines ``command``."""

DEBUG_VARIABLE: Final = "SNAPFS_DEBUG"
"""Set: a bug shows its traceback."""

PROGRAM: Final = "snap"


def build() -> Any:
    """The click group of all verbs."""
    import difflib

    import click

    import snapfs

    from .exits import HELP
    from .invocation import Invocation
    from .options import connection

    class Verbs(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(VERBS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            if cmd_name not in VERBS:
                return None
            module = importlib.import_module(f".{VERBS[cmd_name]}", __package__)
            command: click.Command = module.command
            return command

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            if args and args[0] not in VERBS and not args[0].startswith("-"):
                near = difflib.get_close_matches(args[0], VERBS, n=1)
                raise click.UsageError(f"no verb {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            return super().resolve_command(ctx, args)

    @click.group(cls=Verbs, epilog=HELP, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(snapfs.__version__, prog_name="snapfs", message="%(prog)s %(version)s")
    @click.option("--store", default="", metavar="STORE", help="The store, for verbs that take --store.")
    @connection
    @click.pass_context
    def group(context: click.Context, store: str) -> None:
        """Snapshots of a data lake that follow git.

        A store is a directory that holds volumes; a volume is a versioned file tree; VOLUME@SNAPSHOT names a
        point in its history, by a name, a git commit ID or the start of one.

        \b
        Examples:
          snap init /data/store
          snap mount /data/store /lake
          snap volume create digits
          snap git install --volume digits
          snap create digits -m "before cleaning"
          snap checkout digits@4f2a9c1
          snap du digits
          snap list digits --address lake.example.org:7432 --token-file ~/.snapfs-token
        """
        context.ensure_object(Invocation).store = store

    return group


def fail(message: str, hint: str, code: int, *, kind: str, as_json: bool) -> int:
    """Tell an error on stderr; its exit code."""
    from .output import one_line

    if as_json:
        import msgspec

        error = {"error": {"kind": kind, "message": one_line(message), "hint": one_line(hint), "exit_code": code}}
        text = msgspec.json.encode(error).decode()
    else:
        text = f"{PROGRAM}: {one_line(message)}" + (f" ({one_line(hint)})" if hint else "")
    print(text, file=sys.stderr)
    return code


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code.  Raises nothing."""
    from snapfs.errors import SnapfsError

    from . import exits
    from .invocation import Invocation, Misuse

    state = Invocation(json="--json" in arguments)  # also for what is wrong before the option is looked at
    stdout = sys.stdout
    try:
        if quick.run(arguments, state):
            sys.stdout.flush()
            return exits.OK
        return _through_click(arguments, state)
    except SnapfsError as error:
        return fail(error.message, error.hint, exits.BY_KIND[error.kind], kind=error.kind, as_json=state.json)
    except Misuse as error:
        path = " ".join([PROGRAM, *[word for word in arguments if word in VERBS][:1]])
        return fail(str(error), f"see `{path} --help`", exits.USAGE, kind="usage", as_json=state.json)
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and sys.stdout is stdout:
            raise  # completion has answered
        # of a closed pipe click makes 1, which would tell of damage, and replaces the streams
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is quiet
        return exits.BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}"
        return fail(message, "", exits.of_os_error(error), kind="io", as_json=state.json)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        message = f"internal error: {type(error).__name__}: {error}"
        hint = f"{DEBUG_VARIABLE}=1 shows where"
        return fail(message, hint, exits.INTERNAL, kind="internal", as_json=state.json)


def _through_click(arguments: Sequence[str], state: Invocation) -> int:
    """Raises what a command raises, and KeyboardInterrupt for what click makes of one."""
    import click

    from . import exits

    try:
        result = build().main(args=list(arguments), prog_name=PROGRAM, standalone_mode=False, obj=state)
        sys.stdout.flush()
        return result if isinstance(result, int) else exits.OK
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return exits.USAGE
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
        message = error.format_message().rstrip(".")
        return fail(message, f"see `{path} --help`", exits.USAGE, kind="usage", as_json=state.json)
    except click.Abort:
        raise KeyboardInterrupt from None


def _complete_streams() -> None:
    """Whoever starts us may have closed a standard stream: then the store's files must not get its number, into which
    anybody's output would go."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def main() -> NoReturn:
    """Console script."""
    startup.defer()
    try:
        _main()
    finally:
        gc.freeze()  # what is left when a process ends needs no search for cycles: 6 ms of a short command's 55


def _main() -> NoReturn:
    _complete_streams()
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if arguments[:2] == ["git", "hook"]:
        from .git_hook import run_hook

        startup.search_seldom()

        sys.exit(run_hook(arguments[2:]))
    if arguments and arguments[0] in quick.VERBS:
        startup.search_seldom()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # closes the store in order
    try:
        code = run(arguments)
    except KeyboardInterrupt:  # before there was anything to interrupt
        from .exits import INTERRUPTED

        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
