"""Roles, tokens and callers."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from snapfs import api
from snapfs.access import OWNER, SOCKET, Access, Transport, tokens
from snapfs.api import Caller, Role
from snapfs.errors import (
    AlreadyExists,
    Corrupt,
    Invalid,
    NameTooLong,
    NoSpace,
    NotFound,
    NotPermitted,
    TooLarge,
    Unauthenticated,
    Unsupported,
)
from snapfs.rpc import methods
from snapfs.rpc.methods import METHODS, Reach, authorize, visible
from snapfs.v1 import (
    access_pb2,
    event_pb2,
    operation_pb2,
    retention_pb2,
    snapshot_pb2,
    space_pb2,
    store_pb2,
    transfer_pb2,
    volume_pb2,
)

SECOND = 1_000_000_000

OURS = {
    f"{service.full_name}/{method.name}": method
    for file in (
        volume_pb2,
        snapshot_pb2,
        store_pb2,
        space_pb2,
        retention_pb2,
        transfer_pb2,
        operation_pb2,
        event_pb2,
        access_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
FOREIGN = {
    f"{service.full_name}/{method.name}": method
    for file in (health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


class Clock:
    """Nanoseconds that go on when told."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Access:
    return Access(tmp_path, now_ns=clock)


class TestMethods:
    def test_the_table_is_total(self) -> None:
        assert METHODS.keys() == OURS.keys() | FOREIGN.keys()

    @pytest.mark.parametrize("name", METHODS)
    def test_fields_exist(self, name: str) -> None:
        fields = (OURS | FOREIGN)[name].input_type.fields_by_name
        for field in METHODS[name].volumes:
            assert fields[field].type == fields[field].TYPE_STRING
        if METHODS[name].addresses:
            assert fields[METHODS[name].addresses].type == FieldDescriptor.TYPE_STRING
            assert fields[METHODS[name].addresses].is_repeated
        for path, _ in METHODS[name].role_with:
            kind: Descriptor | None = (OURS | FOREIGN)[name].input_type
            for field in path.split("."):
                assert kind is not None
                kind = kind.fields_by_name[field].message_type

    @pytest.mark.parametrize("name", OURS)
    def test_what_names_a_volume_is_in_the_table(self, name: str) -> None:
        fields = set(OURS[name].input_type.fields_by_name)
        naming = {field for field in fields if "volume" in field and field != "volumes"}
        if name.startswith("snapfs.v1.VolumeService/") or name.endswith("/UndeleteVolume"):
            naming |= fields & {"name"}
        assert naming == set(METHODS[name].volumes)
        if METHODS[name].reach is Reach.VOLUMES:
            assert naming or METHODS[name].addresses

    @pytest.mark.parametrize("name", OURS)
    def test_what_only_looks_does_not_mutate(self, name: str) -> None:
        looking = ("Get", "List", "Watch", "Diff", "Status", "WhatIf", "Cheapest", "Export")
        looks = name.rpartition("/")[2].startswith(looking)
        assert METHODS[name].mutating is not looks
        assert METHODS[name].mutating <= (METHODS[name].role in (Role.OPERATOR, Role.ADMIN))

    def test_only_health_is_for_anybody(self) -> None:
        assert {name for name, rule in METHODS.items() if rule.role is methods.ANYBODY} == {
            name for name in FOREIGN if name.startswith("grpc.health.v1.")
        }

    def test_no_request_has_a_secret(self) -> None:
        """The audit log shows requests."""
        words = ("secret", "password", "credential")
        for name, method in OURS.items():
            for field in method.input_type.fields_by_name:
                assert not any(word in field for word in words), (name, field)


def allowed(name: str, caller: Caller, /, **fields: Any) -> bool:
    request = GetMessageClass((OURS | FOREIGN)[name].input_type)(**fields)
    try:
        authorize(name, request, caller)
    except NotPermitted:
        return False
    return True


VIEWER, OPERATOR, ADMIN = (Caller(name=f"a {role}", role=role) for role in Role)
NARROW = Caller(name="narrow", role=Role.OPERATOR, volumes=["digits", "faces"])


class TestAuthorize:
    @pytest.mark.parametrize("name", METHODS)
    def test_by_role(self, name: str) -> None:
        verdicts = [allowed(name, caller) for caller in (VIEWER, OPERATOR, OWNER if METHODS[name].owner else ADMIN)]
        assert (
            verdicts
            == {
                None: [True, True, True],
                Role.VIEWER: [True, True, True],
                Role.OPERATOR: [False, True, True],
                Role.ADMIN: [False, False, True],
            }[METHODS[name].role]
        )

    def test_who_watches_may_not_always_cancel(self) -> None:
        name = "snapfs.v1.OperationService/WatchOperation"
        assert allowed(name, VIEWER, id="1")
        assert not allowed(name, VIEWER, id="1", cancel_when_abandoned=True)
        assert allowed(name, OPERATOR, id="1", cancel_when_abandoned=True)

    @pytest.mark.parametrize("name", METHODS)
    def test_narrowed_to_other_volumes(self, name: str) -> None:
        rule = METHODS[name]
        caller = Caller(name="n", role=rule.role or Role.VIEWER, volumes=["other"])
        own: dict[str, Any] = dict.fromkeys(rule.volumes, "other")
        if rule.addresses:
            own[rule.addresses] = ["other@x"]
        assert allowed(name, caller, **own) == (rule.reach is not Reach.STORE)
        for field in rule.volumes:
            assert not allowed(name, caller, **{**own, field: "digits"})
        assert allowed(name, caller) == (rule.reach in (Reach.FILTERED, Reach.NOTHING))

    def test_a_clone_stays_among_the_callers_volumes(self) -> None:
        name = "snapfs.v1.VolumeService/Clone"
        assert allowed(name, NARROW, volume="digits", snapshot="x", name="faces")
        assert not allowed(name, NARROW, volume="digits", snapshot="x", name="copy")
        assert not allowed(name, NARROW, volume="secret", snapshot="x", name="faces")

    def test_the_other_side_of_a_diff(self) -> None:
        name = "snapfs.v1.SnapshotService/Diff"
        assert allowed(name, NARROW, volume="digits", snapshot="x")
        assert allowed(name, NARROW, volume="digits", snapshot="x", other_volume="faces")
        assert not allowed(name, NARROW, volume="digits", snapshot="x", other_volume="secret")

    def test_what_would_be_freed_of_others_is_not_told(self) -> None:
        name = "snapfs.v1.SpaceService/WhatIf"
        assert allowed(name, NARROW, targets=["digits@x", "faces"])
        for targets in (["digits@x", "secret@x"], ["secret"], ["digits", ""], ["@x"], []):
            assert not allowed(name, NARROW, targets=targets)
        assert not allowed("snapfs.v1.SpaceService/Cheapest", NARROW, free_bytes=1)

    @pytest.mark.parametrize("name", ["VolumeService/DeleteVolume", "SnapshotService/DeleteSnapshot"])
    def test_only_an_admin_purges(self, name: str) -> None:
        name = f"snapfs.v1.{name}"
        assert allowed(name, OPERATOR)
        assert not allowed(name, OPERATOR, purge=True)
        assert allowed(name, ADMIN, purge=True)

    @pytest.mark.parametrize("name", ["SetPolicy", "ApplyPolicy"])
    def test_only_an_admin_says_where_git_runs(self, name: str) -> None:
        name = f"snapfs.v1.RetentionService/{name}"
        assert allowed(name, OPERATOR, policy={"reachable": True})
        assert not allowed(name, OPERATOR, policy={"repositories": ["/x"]})
        assert allowed(name, ADMIN, policy={"repositories": ["/x"]})

    def test_only_the_owner_imports(self) -> None:
        name = "snapfs.v1.TransferService/StartImport"
        assert allowed(name, OWNER, volume="digits")
        assert not allowed(name, ADMIN, volume="digits")
        with pytest.raises(NotPermitted, match="owner only; this is a admin"):
            authorize(name, transfer_pb2.StartImportRequest(volume="digits"), ADMIN)

    def test_visible(self) -> None:
        assert visible(ADMIN) is None
        assert visible(NARROW) == {"digits", "faces"}

    def test_refusals_say_what_would_do(self) -> None:
        name = "snapfs.v1.VolumeService/DeleteVolume"
        with pytest.raises(NotPermitted, match="DeleteVolume takes the role operator; a viewer is viewer"):
            authorize(name, volume_pb2.DeleteVolumeRequest(name="x"), VIEWER)
        with pytest.raises(NotPermitted, match="narrow may not touch the volume 'x'"):
            authorize(name, volume_pb2.DeleteVolumeRequest(name="x"), NARROW)
        with pytest.raises(NotPermitted, match="whole store"):
            authorize("snapfs.v1.StoreService/CheckStore", store_pb2.CheckStoreRequest(), NARROW)

    def test_unknown_methods(self) -> None:
        with pytest.raises(Unsupported):
            authorize("snapfs.v1.VolumeService/Format", volume_pb2.GetVolumeRequest(), ADMIN)


class TestTokens:
    def test_life_of_a_token(self, access: Access, clock: Clock) -> None:
        made = access.create_token(name="ci", role=Role.OPERATOR, volumes=["b", "a", "b"])
        assert made.token == api.Token(name="ci", role=Role.OPERATOR, volumes=["a", "b"], created_ns=clock.now_ns)
        assert len(made.secret) > 40
        for transport in Transport:
            caller = access.authenticate(made.secret, transport=transport)
            assert caller == Caller(name="ci", role=Role.OPERATOR, volumes=["a", "b"])
        clock.now_ns += SECOND
        revoked = access.revoke_token(name="ci")
        assert revoked.revoked_ns == clock.now_ns
        with pytest.raises(Unauthenticated, match="'ci' was revoked"):
            access.authenticate(made.secret, transport=Transport.UNIX)
        clock.now_ns += SECOND
        assert access.revoke_token(name="ci") == revoked
        assert access.list_tokens() == [revoked]

    def test_expiry(self, access: Access, clock: Clock) -> None:
        made = access.create_token(name="ci", role=Role.VIEWER, expires_ns=clock.now_ns + 10)
        clock.now_ns += 9
        access.authenticate(made.secret, transport=Transport.TCP)
        clock.now_ns += 1
        with pytest.raises(Unauthenticated, match="'ci' has expired"):
            access.authenticate(made.secret, transport=Transport.TCP)
        with pytest.raises(Invalid, match="expired already"):
            access.create_token(name="late", role=Role.VIEWER, expires_ns=clock.now_ns)

    @pytest.mark.parametrize(
        "secret", ["", "snapfs_", "x" * 50, "snapfs_" + "x" * 43, "snapfs_" + "y" * 10**6, "snapfs_\ud800"]
    )
    @pytest.mark.parametrize("transport", Transport)
    def test_wrong_secrets(self, access: Access, secret: str, transport: Transport) -> None:
        """Also where no token is needed: a wrong one is never taken for none."""
        access.create_token(name="ci", role=Role.VIEWER)
        access.new_owner_secret()
        with pytest.raises(Unauthenticated, match="not known"):
            access.authenticate(secret, transport=transport)

    def test_all_of_a_secret_counts(self, access: Access) -> None:
        secret = access.create_token(name="ci", role=Role.VIEWER).secret
        for wrong in (secret[:-1], secret + "x", secret.upper(), secret[1:]):
            with pytest.raises(Unauthenticated):
                access.authenticate(wrong, transport=Transport.TCP)

    def test_the_file(self, access: Access, tmp_path: Path) -> None:
        previous = os.umask(0)
        try:
            (tmp_path / "access").mkdir(mode=0o777)
            (tmp_path / "access" / "tokens.json.new").touch(0o666)  # of a crash
            secret = access.create_token(name="ci", role=Role.VIEWER).secret
        finally:
            os.umask(previous)
        path = tmp_path / "access" / "tokens.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert os.listdir(path.parent) == ["tokens.json"]
        assert secret not in path.read_text()
        assert secret.removeprefix(tokens.PREFIX) not in path.read_text()

    def test_beside_another_process(self, access: Access, tmp_path: Path) -> None:
        other = Access(tmp_path)
        made = other.create_token(name="ci", role=Role.VIEWER)
        access.authenticate(made.secret, transport=Transport.TCP)
        other.revoke_token(name="ci")
        with pytest.raises(Unauthenticated):
            access.authenticate(made.secret, transport=Transport.TCP)
        (tmp_path / "access" / "tokens.json").unlink()
        with pytest.raises(Unauthenticated, match="not known"):
            access.authenticate(made.secret, transport=Transport.TCP)
        assert access.list_tokens() == []

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 1, "tokens": [{"name": "x"}]}', b"\0" * 100, b"\xff{}"],
    )
    def test_a_damaged_file_lets_nobody_in(self, access: Access, tmp_path: Path, content: bytes) -> None:
        made = access.create_token(name="ci", role=Role.ADMIN)
        owner = access.new_owner_secret()
        (tmp_path / "access" / "tokens.json").write_bytes(content)
        for _ in range(2):
            with pytest.raises(Unauthenticated) as caught:
                access.authenticate(made.secret, transport=Transport.TCP)
            assert str(tmp_path) not in caught.value.message  # a stranger is not told where the store is
        for act in (
            access.list_tokens,
            lambda: access.create_token(name="new", role=Role.VIEWER),
            lambda: access.revoke_token(name="ci"),
        ):
            with pytest.raises(Corrupt, match=r"tokens\.json: damaged"):
                act()
        assert (tmp_path / "access" / "tokens.json").read_bytes() == content
        assert access.authenticate(owner, transport=Transport.UNIX) == OWNER

    def test_a_newer_file(self, access: Access, tmp_path: Path) -> None:
        (tmp_path / "access").mkdir()
        (tmp_path / "access" / "tokens.json").write_text('{"version": 2, "tokens": []}')
        with pytest.raises(Unsupported):
            access.list_tokens()

    def test_names(self, access: Access) -> None:
        access.create_token(name="ci", role=Role.VIEWER)
        access.revoke_token(name="ci")
        with pytest.raises(AlreadyExists, match="'ci'"):
            access.create_token(name="ci", role=Role.VIEWER)
        for name in ("", "a/b", "a@b", "-x", "owner", "socket", "local", "a\nb", "."):
            with pytest.raises(Invalid):
                access.create_token(name=name, role=Role.VIEWER)
        for certificate in (False, True):
            with pytest.raises(NameTooLong):
                access.create_token(name="ä" * 128, role=Role.VIEWER, certificate=certificate)
        for name in ("", "-x", "owner", "a\x1bb"):
            with pytest.raises(Invalid):
                access.create_token(name=name, role=Role.VIEWER, certificate=True)
        with pytest.raises(NotFound, match="'nobody'"):
            access.revoke_token(name="nobody")

    def test_volumes(self, access: Access) -> None:
        with pytest.raises(Invalid, match="volume name"):
            access.create_token(name="ci", role=Role.VIEWER, volumes=["a/b"])
        with pytest.raises(Invalid, match="admin"):
            access.create_token(name="ci", role=Role.ADMIN, volumes=["a"])
        with pytest.raises(TooLarge):
            access.create_token(name="ci", role=Role.VIEWER, volumes=[f"v{i}" for i in range(101)])
        assert access.list_tokens() == []

    def test_records_that_ended_make_room(self, access: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens, "TOKENS_MAX", 3)
        for name in ("one", "two", "three"):
            clock.now_ns += 1
            access.create_token(name=name, role=Role.VIEWER, expires_ns=clock.now_ns + 100)
        with pytest.raises(TooLarge, match="3 tokens in force"):
            access.create_token(name="four", role=Role.VIEWER)
        access.revoke_token(name="two")
        access.create_token(name="four", role=Role.VIEWER)
        assert [token.name for token in access.list_tokens()] == ["one", "three", "four"]

    def test_a_full_disk_changes_nothing(self, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = access.create_token(name="ci", role=Role.VIEWER)

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", full)
            with pytest.raises(NoSpace):
                access.revoke_token(name="ci")
        assert access.authenticate(made.secret, transport=Transport.TCP).name == "ci"
        assert Access(tmp_path).list_tokens() == [made.token]


class TestCallers:
    def test_without_a_secret(self, access: Access) -> None:
        assert access.authenticate(None, transport=Transport.UNIX) == SOCKET
        assert SOCKET.role is Role.OPERATOR
        with pytest.raises(Unauthenticated, match="token is needed") as caught:
            access.authenticate(None, transport=Transport.TCP)
        assert "SNAPFS_TOKEN" in caught.value.hint

    def test_the_owner(self, access: Access, tmp_path: Path) -> None:
        first = access.new_owner_secret()
        path = tmp_path / "control" / "owner"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == first + "\n"
        assert access.authenticate(first, transport=Transport.UNIX) == OWNER
        with pytest.raises(Unauthenticated):
            access.authenticate(first, transport=Transport.TCP)
        second = access.new_owner_secret()
        with pytest.raises(Unauthenticated):
            access.authenticate(first, transport=Transport.UNIX)
        access.remove_owner_secret()
        assert not path.exists()
        with pytest.raises(Unauthenticated):
            access.authenticate(second, transport=Transport.UNIX)
        access.remove_owner_secret()

    def test_an_owners_file_that_somebody_else_made(self, access: Access, tmp_path: Path) -> None:
        (tmp_path / "control").mkdir()
        (tmp_path / "control" / "owner").write_text("snapfs_" + "A" * 43 + "\n")
        with pytest.raises(Unauthenticated):
            access.authenticate("snapfs_" + "A" * 43, transport=Transport.UNIX)

    def test_certificates(self, access: Access, clock: Clock) -> None:
        made = access.create_token(
            name="spiffe://build",
            role=Role.VIEWER,
            volumes=["a"],
            certificate=True,
            expires_ns=clock() + 10,
        )
        assert made.secret == ""
        assert made.token.certificate

        def caller(*names: str, secret: str | None = None) -> Caller:
            return access.authenticate(secret, transport=Transport.TCP, certificate_names=names)

        expected = Caller(name=made.token.name, role=Role.VIEWER, volumes=["a"])
        assert caller("other", made.token.name) == expected
        with pytest.raises(Unauthenticated, match="'other' is not registered"):
            caller("other")
        with pytest.raises(Unauthenticated, match="not known"):  # a secret that is given must be good
            caller(made.token.name, secret="snapfs_wrong")
        token = access.create_token(name="ci", role=Role.OPERATOR)
        assert caller(made.token.name, secret=token.secret).name == "ci"
        with pytest.raises(Unauthenticated, match="not registered"):  # a token's name is not a certificate's
            caller("ci")
        clock.now_ns += 10
        with pytest.raises(Unauthenticated, match="certificate 'spiffe://build' has expired"):
            caller(made.token.name)
