"""The settings of a store: those in its file, and those in force.

Invariants:
  * A change (``update``, ``reload``) takes effect as a whole or not at all.
  * The file is replaced atomically; it need not exist: all settings have defaults.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from snapfs import api
from snapfs.config.file import edited, near, one_value, parse
from snapfs.config.tables import DEFINITIONS, Config, as_toml, flat, from_flat
from snapfs.errors import Invalid, IOFailure, NotPermitted, SnapfsError
from snapfs.store.disk import Disk

FILE_NAME: Final = "config.toml"
"""In the store."""
FILE_BYTES_MAX: Final = 1024 * 1024
"""Far more than all settings with comments."""


class Settings:
    """The settings of one store: those in its file, and those in force.

    Not thread-safe.  Nothing is read before it is asked for.
    """

    def __init__(self, store: Path, *, disk: Disk | None = None) -> None:
        self.path: Final = store / FILE_NAME
        self._disk = disk or Disk()
        self._apply: Callable[[Config], None] | None = None
        self._file: tuple[Config, frozenset[str]] | None = None
        """As read last."""
        self._in_force: Config | None = None

    @property
    def config(self) -> Config:
        """What is in force.

        Raises:
            Invalid, NotPermitted, IOFailure: the file cannot be used.
        """
        if self._in_force is None:
            self._file = self._parsed(self._read())
            self._in_force = self._file[0]
        return self._in_force

    def follow(self, apply: Callable[[Config], None]) -> None:
        """From now on changes are put into force by ``apply``, which gets all settings.  If it raises a SnapfsError the
        change is refused: it is called again with the settings as they were."""
        self._apply = apply

    def describe(self) -> api.Settings:
        """All settings as in the file when it was read last; raises as ``config``."""
        return api.Settings(settings=[self._setting(name) for name in DEFINITIONS], path=str(self.path))

    def _setting(self, name: str) -> api.Setting:
        self.config  # noqa: B018 - reads the file if it was not
        assert self._file is not None
        definition, (config, configured) = DEFINITIONS[name], self._file
        return api.Setting(
            name=name,
            value=as_toml(flat(config)[name]),
            default_value=as_toml(definition.default),
            description=definition.description,
            configured=name in configured,
            needs_restart=definition.needs_restart,
        )

    def update(self, name: str, value: str) -> api.Setting:
        """Change one setting in the file, and put what can be into force.

        Args:
            value: as TOML; empty: back to the default.

        Raises:
            Invalid: no such setting, not its value, or the file would not be valid; nothing was changed.
            SnapfsError: it cannot be written, or not be put into force; nothing was changed.
        """
        old = self._read()
        if value and name not in DEFINITIONS:
            raise Invalid(f"no such setting: {name!r}", hint=near(name, list(DEFINITIONS), "settings are"))
        new = edited(old, name, one_value(name, value) if value else None, str(self.path))
        parsed = parse(new, str(self.path) if self._is_wrong(old) else "")
        self._write(new)
        try:
            self._take(parsed)
        except SnapfsError:
            self._write(old)
            raise
        if name not in DEFINITIONS:  # what had no business in the file was removed
            return api.Setting(name=name, value="", default_value="", description="not a setting")
        return self._setting(name)

    def reload(self) -> api.Reloaded:
        """Read the file again, and put what can be into force.

        Raises:
            SnapfsError: the file cannot be used, or not be put into force: all stays as it was.
        """
        return self._take(self._parsed(self._read()))

    def _take(self, parsed: tuple[Config, frozenset[str]]) -> api.Reloaded:
        try:
            before = self.config
        except SnapfsError:  # there was no valid file: nothing is in force
            before = parsed[0]
        old, new = flat(before), flat(parsed[0])
        changed = [name for name in DEFINITIONS if old[name] != new[name]]
        waiting = [name for name in changed if self._apply is not None and DEFINITIONS[name].needs_restart]
        applied = [name for name in changed if name not in waiting]
        after = from_flat({**old, **{name: new[name] for name in applied}})
        if applied and self._apply is not None:
            try:
                self._apply(after)
            except SnapfsError:
                self._apply(before)
                raise
        self._file, self._in_force = parsed, after
        return api.Reloaded(applied=applied, waiting=waiting)

    def _parsed(self, data: bytes) -> tuple[Config, frozenset[str]]:
        return parse(data, str(self.path))

    def _is_wrong(self, data: bytes) -> bool:
        try:
            self._parsed(data)
        except Invalid:
            return True
        return False

    def _read(self) -> bytes:
        try:
            opened = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never wait for a pipe's writer
            with os.fdopen(opened, "rb") as file:
                if not stat.S_ISREG(os.fstat(opened).st_mode):
                    raise Invalid(f"{self.path} is not a file")
                data = file.read(FILE_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except PermissionError:
            raise NotPermitted(f"{self.path} cannot be read") from None
        except OSError as error:
            raise IOFailure(f"{self.path} cannot be read: {error.strerror}") from None
        if len(data) > FILE_BYTES_MAX:
            raise Invalid(f"{self.path} is longer than {FILE_BYTES_MAX} bytes", hint="it cannot be a configuration")
        return data

    def _write(self, data: bytes) -> None:
        self._disk.write_file("config", self.path.resolve(), data)
