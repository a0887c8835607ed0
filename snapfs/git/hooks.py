"""Our lines in a repository's hooks: put in, taken out, told.

Invariants:

- What we write is one block between two marks; everything outside the marks is the user's and stays as it
  was, byte for byte.
- In a shell hook the block stands right after the ``#!`` line, not at the end: hooks end in ``exit`` or
  ``exec`` (those of pre-commit and husky do), and one that comes later could not read the input of post-rewrite
  or post-receive any more.  Our block reads it first and hands it on.
- A hook that is no shell script, is a symlink, or is not executable (git does not run it) is kept as
  NAME.pre-snapfs beside ours, which runs it afterwards under the same terms and with its exit code.
- The block cannot fail or stop the hook (``|| :``, also under ``set -e``); deadlines are the command's own.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from snapfs import errors

HOOK_NAMES: Final = ("post-commit", "post-checkout", "post-merge", "post-rewrite")
"""Of a clone in which somebody works."""

SERVER_HOOK_NAMES: Final = ("post-receive",)
"""Of a repository that others push to."""

_WITH_INPUT: Final = frozenset({"post-rewrite", "post-receive"})

KEPT_SUFFIX: Final = ".pre-snapfs"

_BEGIN: Final = b"# >>> snapfs >>>"
_END: Final = b"# <<< snapfs <<<"
_BLOCK: Final = re.compile(rb"^# >>> snapfs >>>.*?^# <<< snapfs <<<[^\n]*\n?", re.DOTALL | re.MULTILINE)
_SHEBANG: Final = b"#!/bin/sh\n"
_SHELLS: Final = frozenset({b"sh", b"bash", b"dash", b"ash", b"ksh", b"mksh", b"zsh"})
_HOOK_BYTES_MAX: Final = 4 * 1024 * 1024


class HookState(msgspec.Struct, frozen=True, kw_only=True):
    """One hook, for ``snap git status``."""

    name: str
    path: str
    installed: bool
    """Our block is in it and git would run it."""
    current: bool
    """The block is the one that this installation would write."""
    beside: str = ""
    """What else the hook runs: ``own lines`` (of a shell hook), the name of the kept hook, or nothing."""


def _block(name: str, executable: Path, *, kept: bool) -> bytes:
    command = shlex.quote(str(executable))
    lines = [
        f"{_BEGIN.decode()} written by `snap git install`, removed by `snap git uninstall`",
        f'snapfs_run() {{ if [ -x {command} ]; then {command} git hook {name} "$@"',
        f'elif command -v snapfs >/dev/null 2>&1; then snapfs git hook {name} "$@"',
        "else echo 'snapfs: the command snapfs is gone; the data does not follow git' >&2; fi; }",
    ]
    if name in _WITH_INPUT:
        lines += [
            "snapfs_input=$(cat)",
            'printf \'%s\\n\' "$snapfs_input" | snapfs_run "$@" || :',
            "exec <<snapfs_input_ends",
            "$snapfs_input",
            "snapfs_input_ends",
        ]
    else:
        lines.append('snapfs_run "$@" </dev/null || :')
    if kept:
        keeper = f'"${{0%/*}}/{name}{KEPT_SUFFIX}"'
        lines.append(f'if [ -x {keeper} ]; then exec {keeper} "$@"; fi')
    lines.append(_END.decode())
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def effective_directory(directory: Path) -> Path:
    """Where a user's hooks go, given where git looks for them.

    husky 9 points git at ``.husky/_``, generates scripts there anew on every ``npm install``, and they run
    ``.husky/NAME`` through ``sh``, executable or not ("sourced" below).
    """
    if directory.name == "_" and (directory / "h").is_file():
        return directory.parent
    return directory


def _is_shell(content: bytes) -> bool:
    first = content.partition(b"\n")[0]
    if not first.startswith(b"#!"):
        # git hands a script without interpreter to sh
        return b"\0" not in content[:4096]
    words = first[2:].split()
    if words and words[0].rpartition(b"/")[2] == b"env":
        words = [word for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
    return bool(words) and words[0].rpartition(b"/")[2] in _SHELLS


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_HOOK_BYTES_MAX + 1)
    if len(content) > _HOOK_BYTES_MAX:
        raise errors.TooLarge(f"the hook {path} has more than {_HOOK_BYTES_MAX} bytes")
    return content


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace as a whole: git may run the hook meanwhile."""
    temporary = path.with_name(f".{path.name}.snapfs-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _keep_aside(path: Path) -> None:
    kept = path.with_name(path.name + KEPT_SUFFIX)
    if os.path.lexists(kept):
        raise errors.Conflict(
            f"cannot keep the hook {path}: {kept.name} is already there", hint="remove one of them by hand"
        )
    path.rename(kept)


def _install_one(path: Path, executable: Path, *, sourced: bool) -> None:
    name = path.name
    plain = _block(name, executable, kept=False)
    if not os.path.lexists(path):
        _write(path, _SHEBANG + plain, 0o755)
        return
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode) or not (sourced or info.st_mode & 0o111):
        _keep_aside(path)
        _write(path, _SHEBANG + _block(name, executable, kept=True), 0o755)
        return
    content = _read(path)
    if _BLOCK.search(content):
        wrapper = os.path.lexists(path.with_name(name + KEPT_SUFFIX))
        block = _block(name, executable, kept=wrapper)
        updated = _BLOCK.sub(lambda _: block, content, count=1)
        if updated != content:
            _write(path, updated, stat.S_IMODE(info.st_mode))
    elif sourced or _is_shell(content):
        head, newline, rest = content.partition(b"\n")
        if not head.startswith(b"#!"):
            head, newline, rest = b"", b"", content
        _write(path, head + (newline or (b"\n" if head else b"")) + plain + rest, stat.S_IMODE(info.st_mode))
    else:
        _keep_aside(path)
        _write(path, _SHEBANG + _block(name, executable, kept=True), 0o755)


def _uninstall_one(path: Path) -> bool:
    """False if there was nothing of ours."""
    if path.is_symlink() or not path.is_file():
        return False
    content = _read(path)
    rest = _BLOCK.sub(b"", content)
    if rest == content:
        return False
    kept = path.with_name(path.name + KEPT_SUFFIX)
    if rest.strip() not in (b"", _SHEBANG.strip()):
        _write(path, rest, stat.S_IMODE(path.stat().st_mode))
    elif os.path.lexists(kept):
        kept.rename(path)
    else:
        path.unlink()
    return True


def install(directory: Path, executable: Path, names: Sequence[str] = HOOK_NAMES) -> None:
    """Put our block into each of the hooks.

    Args:
        directory: where git looks for hooks.
        executable: absolute path of the ``snap`` command.

    Raises:
        Conflict: a kept hook would overwrite another.
        OSError: the directory cannot be written.
    """
    target = effective_directory(directory)
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        _install_one(target / name, executable, sourced=target != directory)


def uninstall(directory: Path) -> list[str]:
    """Take our blocks out, put kept hooks back; names of the hooks that changed."""
    places = {directory, effective_directory(directory)}
    names = (*HOOK_NAMES, *SERVER_HOOK_NAMES)
    return [name for name in names if sum(_uninstall_one(place / name) for place in sorted(places))]


def status(directory: Path, executable: Path, names: Sequence[str] = HOOK_NAMES) -> list[HookState]:
    """The state of each of the hooks."""
    target = effective_directory(directory)
    return [_state(target / name, executable, sourced=target != directory) for name in names]


def _state(path: Path, executable: Path, *, sourced: bool) -> HookState:
    name, kept = path.name, path.with_name(path.name + KEPT_SUFFIX)
    found = None
    rest = b""
    if path.is_file():
        content = _read(path)
        found = _BLOCK.search(content) if sourced or os.access(path, os.X_OK) else None
        rest = _BLOCK.sub(b"", content).strip()
    beside = "own lines" if rest not in (b"", _SHEBANG.strip()) else ""
    if found and os.path.lexists(kept):
        beside = kept.name
    current = found is not None and found.group() == _block(name, executable, kept=os.path.lexists(kept))
    return HookState(name=name, path=str(path), installed=found is not None, current=current, beside=beside)
