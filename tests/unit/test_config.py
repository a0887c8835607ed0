"""The configuration: what may be in the file, what is told about what may not, and changing it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs import api
from snapfs.config import DEFINITIONS, FILE_NAME, Config, Settings, as_toml, flat, is_loopback
from snapfs.errors import Invalid, NotPermitted, SnapfsError, Unavailable
from snapfs.volume.limits import DEFAULT


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def written(settings: Settings, text: str | bytes) -> Settings:
    settings.path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return settings


def by_name(settings: Settings) -> dict[str, api.Setting]:
    return {setting.name: setting for setting in settings.describe().settings}


class TestDefaults:
    def test_without_a_file(self, settings: Settings) -> None:
        assert settings.config == Config()
        assert settings.config.limits() == DEFAULT
        assert not settings.path.exists()

    def test_all_are_described(self, settings: Settings) -> None:
        found = by_name(settings)
        assert set(found) == set(DEFINITIONS) == set(flat(Config()))
        for setting in found.values():
            assert setting.value == setting.default_value
            assert setting.description.endswith(".")
            assert not setting.configured
        assert settings.describe().path.endswith(f"/{FILE_NAME}")

    def test_defaults_are_valid(self, settings: Settings) -> None:
        """The file with all of them written down says what no file says."""
        lines: dict[str, list[str]] = {}
        for name, value in flat(Config()).items():
            table, _, key = name.partition(".")
            lines.setdefault(table, []).append(f"{key} = {as_toml(value)}")
        text = "\n".join(f"[{table}]\n" + "\n".join(keys) for table, keys in lines.items())
        assert written(settings, text).config == Config()
        assert all(setting.configured for setting in settings.describe().settings)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[log]\nlevel = 'loud'", ["line 2", "log.level", '"loud"', '"debug"']),
            ("[log]\n\n# a comment\nlevel = 3", ["line 4", "log.level", "3"]),
            ("[lgo]\nlevel = 'info'", ["line 1", "lgo", "did you mean log?"]),
            ("[log]\nlvel = 'info'", ["line 2", "log.lvel", "did you mean level?"]),
            ("log.lvel = 'info'", ["line 1", "log.lvel"]),
            ("log = 3", ["line 1", "log", "[log]"]),
            ("[log]\nxyz = 1", ["log.xyz", "level, format, bytes_max"]),
            ("[log\n", ["line 1"]),
            ("[log]\nlevel = 'info'\nlevel = 'debug'\n", ["line 3"]),
            ("[store]\ncommit_seconds = 0", ["line 2", "store.commit_seconds", "at least 0.1"]),
            ("[store]\ncommit_seconds = nan", ["store.commit_seconds"]),
            ("[store]\ncommit_seconds = true", ["store.commit_seconds", "a number"]),
            ("[store]\ndirty_bytes_max = 1.5", ["store.dirty_bytes_max", "a whole number"]),
            ("[store]\ndirty_bytes_max = 1", ["store.dirty_bytes_max", "at least 4194304"]),
            ("[mount]\nxattrs = 'yes'", ["mount.xattrs", "true or false"]),
            ("[metrics]\naddress = '0.0.0.0:9464'", ["metrics.address", "loopback"]),
            ("[metrics]\naddress = '127.0.0.1'", ["metrics.address", "HOST:PORT"]),
            ("[metrics]\naddress = '127.0.0.1:99999'", ["metrics.address", "HOST:PORT"]),
            ("[listen]\naddress = '0.0.0.0:7443'", ["listen.address", "TLS", "listen.certificate"]),
            ("[listen]\naddress = '0.0.0.0:7443'\nplaintext = true", ["line 3", "listen.plaintext", "loopback"]),
            (
                "[listen]\naddress = '127.0.0.1:1'\nplaintext = true\ncertificate = '/a'\nkey = '/b'",
                ["listen.plaintext", "contradicts"],
            ),
            ("[listen]\ncertificate = 'relative.pem'", ["listen.certificate", "absolute"]),
            ("[control]\ngroup = 'root'", ["control.group", "control.directory"]),
            ("[control]\ndirectory = '/x'\ngroup = 'no such group'", ["line 3", "control.group", "no group"]),
            (b"[log]\nlevel = '\xff'", ["line 2", "UTF-8"]),
            ("a = " + "[" * 5000, [FILE_NAME]),
        ],
    )
    def test_it_is_told_what_is_wrong(self, settings: Settings, text: str | bytes, words: list[str]) -> None:
        with pytest.raises(Invalid) as caught:
            _ = written(settings, text).config
        said = f"{caught.value.message} {caught.value.hint}"
        assert FILE_NAME in said
        assert "\n" not in said
        assert [word for word in words if word not in said] == []

    def test_a_huge_file(self, settings: Settings) -> None:
        with pytest.raises(Invalid, match="longer"):
            _ = written(settings, b"#" * 2_000_000).config

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
    def test_no_file(self, settings: Settings, make: Callable[[Path], None]) -> None:
        make(settings.path)
        with pytest.raises(SnapfsError, match=FILE_NAME):
            _ = settings.config

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
    def test_loopback(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "", "127.0.0.1.com"])
    def test_not_loopback(self, host: str) -> None:
        assert not is_loopback(host)


class TestUpdate:
    def test_comments_and_order_stay(self, settings: Settings) -> None:
        before = "# ours\n[log] # what we hear\nlevel = 'debug'   # for now\n\n[store]\ncommit_seconds = 2\n"
        written(settings, before)
        changed = settings.update("log.level", '"error"')
        assert (changed.value, changed.configured, changed.default_value) == ('"error"', True, '"info"')
        assert settings.path.read_text() == before.replace("'debug'", '"error"')
        assert settings.config.log.level == "error"

    def test_a_file_is_made(self, settings: Settings) -> None:
        settings.update("store.commit_seconds", "2")
        assert settings.path.read_text() == "[store]\ncommit_seconds = 2.0\n"
        assert settings.path.stat().st_mode & 0o777 == 0o600
        assert Settings(settings.path.parent).config.store.commit_seconds == 2.0

    def test_back_to_the_default(self, settings: Settings) -> None:
        settings.update("log.level", '"error"')
        changed = settings.update("log.level", "")
        assert (changed.value, changed.configured) == ('"info"', False)
        assert settings.path.read_text().strip() == ""
        assert settings.update("log.format", "").value == '"text"'  # was not in the file

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("log.level", '"loud"'),
            ("log.level", "debug"),
            ("log.level", '"debug"\nformat = "json"'),
            ("log.lvel", '"debug"'),
            ("log", '"debug"'),
            ("", '"debug"'),
            ("log.lvel", ""),
            ("log.level.x", ""),
            ("listen.address", '"0.0.0.0:7443"'),
            ("store.commit_seconds", "[" * 3000),
        ],
    )
    def test_refused(self, settings: Settings, name: str, value: str) -> None:
        before = "[log]\nlevel = 'error' # ours\n"
        written(settings, before)
        with pytest.raises(Invalid):
            settings.update(name, value)
        assert settings.path.read_text() == before
        assert settings.config.log.level == "error"

    def test_any_text_comes_back(self, settings: Settings) -> None:
        for text in ("/a b", "/ä\u2028", '/"quoted"', "/back\\slash", "/\x7f\x01\t", "/'"):
            assert settings.update("listen.certificate", as_toml(text)).value == as_toml(text)
            assert Settings(settings.path.parent).config.listen.certificate == text

    def test_a_bad_file_can_be_mended(self, settings: Settings) -> None:
        written(settings, "[log]\nlevel = 'loud'\nlvel = 3\n")
        with pytest.raises(Invalid, match=r"lvel"):
            settings.update("log.level", '"info"')
        with pytest.raises(Invalid, match=r"log\.level"):
            settings.update("log.lvel", "")
        written(settings, "[log]\nlevel = 'loud'\n")
        settings.update("log.level", '"debug"')
        assert settings.config.log.level == "debug"
        written(settings, "[lgo]\nlevel = 'loud'\n[log]\nlevel = 'debug'\n")
        assert settings.update("lgo", "").value == ""
        assert settings.reload() == api.Reloaded(applied=[], waiting=[])

    def test_a_link_stays_one(self, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        real = tmp_path / "elsewhere" / "lake.toml"
        settings.path.symlink_to(real)
        settings.update("log.level", '"error"')
        assert settings.path.is_symlink()
        assert "error" in real.read_text()


class Follower:
    """What a daemon does with changed settings; refuses a level."""

    def __init__(self) -> None:
        self.got: list[Config] = []

    def __call__(self, config: Config) -> None:
        self.got.append(config)
        if config.log.level == "error":
            raise Unavailable("not that one")


class TestWhileItRuns:
    @pytest.fixture
    def follower(self, settings: Settings) -> Follower:
        assert settings.config == Config()
        follower = Follower()
        settings.follow(follower)
        return follower

    def test_what_can_be_is_applied(self, settings: Settings, follower: Follower) -> None:
        written(settings, "[log]\nlevel = 'debug'\n[store]\ncommit_seconds = 1\n[mount]\nxattrs = true\n")
        done = settings.reload()
        assert done == api.Reloaded(applied=["log.level"], waiting=["mount.xattrs", "store.commit_seconds"])
        assert follower.got == [settings.config]
        assert settings.config.log.level == "debug"
        assert settings.config.store.commit_seconds == DEFAULT.commit_seconds  # not in force
        assert by_name(settings)["store.commit_seconds"].value == "1.0"  # in the file
        again = settings.reload()
        assert again == api.Reloaded(applied=[], waiting=["mount.xattrs", "store.commit_seconds"])
        assert len(follower.got) == 1

    def test_a_bad_file_changes_nothing(self, settings: Settings, follower: Follower) -> None:
        written(settings, "[log]\nlevel = 'debug'\nformat = 'loud'")
        with pytest.raises(Invalid):
            settings.reload()
        assert follower.got == []
        assert settings.config == Config()

    def test_what_cannot_be_applied_is_taken_back(self, settings: Settings, follower: Follower) -> None:
        settings.update("log.format", '"json"')
        before = settings.path.read_bytes()
        with pytest.raises(Unavailable):
            settings.update("log.level", '"error"')
        assert settings.path.read_bytes() == before
        assert [(config.log.level, config.log.format) for config in follower.got] == [
            ("info", "json"), ("error", "json"), ("info", "json"),
        ]  # fmt: skip
        assert settings.config == follower.got[-1]
        written(settings, "[log]\nlevel = 'error'")
        with pytest.raises(Unavailable):
            settings.reload()
        assert settings.config == follower.got[0]

    def test_a_file_that_cannot_be_written(self, tmp_path: Path, follower: Follower) -> None:
        class Full:
            def write_file(self, what: str, path: Path, data: bytes) -> None:
                raise NotPermitted("the disk refuses")

        settings = Settings(tmp_path, disk=Full())  # type: ignore[arg-type]
        settings.follow(follower)
        with pytest.raises(NotPermitted):
            settings.update("log.level", '"debug"')
        assert follower.got == []
        assert settings.config == Config()
