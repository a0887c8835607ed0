"""Where the API server listens: sockets and ports, who can reach them, and what is refused."""

from __future__ import annotations

import grp
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import trustme

from snapfs import api, client, errors
from snapfs.rpc.endpoints import TcpEndpoint, UnixEndpoint
from snapfs.testing.api_server import SECONDS_MAX, ApiServer

# -- unix sockets


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def serves(address: str | Path) -> bool:
    with client.connect(f"unix:{address}", timeout_seconds=SECONDS_MAX) as somebody:
        return somebody.get_caller().role == api.Role.OPERATOR


def refused(store: Path, *places: UnixEndpoint | TcpEndpoint) -> errors.SnapfsError:
    with pytest.raises(errors.SnapfsError) as caught:
        ApiServer(store, places).stop()
    return caught.value


def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    control = tmp_path / "store/control"
    served = ApiServer(tmp_path / "store")
    assert served.addresses == [f"{control}/socket"]
    assert (mode(control), mode(control / "socket"), mode(control / "owner")) == (0o700, 0o600, 0o600)
    assert serves(control / "socket")
    served.stop()
    assert not (control / "socket").exists()


def test_a_group_may_use_a_further_socket(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getegid()).gr_name
    place = tmp_path / "run"
    served = ApiServer(tmp_path / "store", [UnixEndpoint(directory=place, group=group)])
    try:
        assert (mode(place), mode(place / "socket")) == (0o750, 0o660)
        assert (place.stat().st_gid, (place / "socket").stat().st_gid) == (os.getegid(), os.getegid())
        assert serves(place / "socket")
        assert serves(tmp_path / "store/control/socket")
    finally:
        served.stop()


def test_paths_that_are_too_long_for_a_socket(tmp_path: Path) -> None:
    store = tmp_path.joinpath(*["long" * 20] * 4) / "store"
    store.parent.mkdir(parents=True)
    served = ApiServer(store)
    try:
        with served.connect() as owner:
            assert owner.get_caller().name == "owner"
    finally:
        served.stop()
    assert not (store / "control/socket").exists()


def test_a_socket_that_a_dead_daemon_left(tmp_path: Path) -> None:
    control = tmp_path / "store/control"
    ApiServer(tmp_path / "store").stop()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{control}/socket")
    assert (control / "socket").exists()
    served = ApiServer(tmp_path / "store")
    assert serves(control / "socket")
    served.stop()


def test_a_socket_that_somebody_serves(tmp_path: Path) -> None:
    shared = UnixEndpoint(directory=tmp_path / "run")
    first = ApiServer(tmp_path / "one", [shared])
    try:
        error = refused(tmp_path / "two", shared)
        assert (type(error), f"{tmp_path}/run/socket" in error.message) == (errors.Busy, True)
        assert serves(tmp_path / "run/socket")
    finally:
        first.stop()


def test_a_directory_that_somebody_else_can_exchange(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "run").symlink_to("elsewhere")
    error = refused(tmp_path / "store", UnixEndpoint(directory=tmp_path / "run"))
    assert (type(error), "is not a directory" in error.message) == (errors.Invalid, True)
    assert mode(tmp_path / "elsewhere") == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir(mode=0o755)
    os.chown(place, 12345, -1)
    error = refused(tmp_path / "store", UnixEndpoint(directory=place))
    assert (type(error), "belongs to another user" in error.message) == (errors.Invalid, True)
    assert mode(place) == 0o755


def test_what_is_in_the_way_stays(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    (place / "socket").write_text("precious")
    assert isinstance(refused(tmp_path / "store", UnixEndpoint(directory=place)), errors.Invalid)
    assert (place / "socket").read_text() == "precious"
    (place / "socket").unlink()
    (place / "letters").mkdir()
    place.chmod(0o755)
    error = refused(tmp_path / "store", UnixEndpoint(directory=place))
    assert (type(error), "'letters'" in error.message) == (errors.Invalid, True)
    assert mode(place) == 0o755
    assert isinstance(refused(tmp_path / "store", UnixEndpoint(directory=Path("/dev/null"))), errors.Invalid)
    nobody = UnixEndpoint(directory=tmp_path / "other", group="no-such-group")
    assert "no-such-group" in refused(tmp_path / "store", nobody).message


# -- TCP


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, place: Path, name: str, *identities: str) -> dict[str, Any]:
    """Files of a certificate, as options of an endpoint or a client."""
    issued = authority.issue_cert(*(identities or ("localhost", "127.0.0.1")))
    certificate, key = place / f"{name}.pem", place / f"{name}.key"
    certificate.unlink(missing_ok=True)
    key.unlink(missing_ok=True)
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    return {"certificate": certificate, "key": key}


def test_plain_tcp_is_for_this_machine_and_on_request(tmp_path: Path) -> None:
    served = ApiServer(tmp_path / "store", [TcpEndpoint(address="127.0.0.1:0", plaintext=True)])
    try:
        with served.connect() as owner:
            secret = owner.create_token(name="ci", role=api.Role.VIEWER).secret
        with client.connect(f"insecure:{served.addresses[1]}", token=secret) as viewer:
            assert viewer.get_caller().name == "ci"
        with client.connect(f"insecure:{served.addresses[1]}") as stranger, pytest.raises(errors.Unauthenticated):
            stranger.get_caller()
    finally:
        served.stop()


def test_a_name_of_the_loopback_that_stands_for_another_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def lying(host: str, *arguments: Any, **options: Any) -> Any:
        return real("192.0.2.1" if host == "localhost" else host, *arguments, **options)

    monkeypatch.setattr("snapfs.rpc.endpoints.socket.getaddrinfo", lying)
    error = refused(tmp_path / "store", TcpEndpoint(address="localhost:0", plaintext=True))
    assert "would let everybody read along" in error.message


def test_tls(tmp_path: Path, authority: trustme.CA) -> None:
    files = issue(authority, tmp_path, "server")
    served = ApiServer(tmp_path / "store", [TcpEndpoint(address="127.0.0.1:0", **files)])
    try:
        with served.connect() as owner:
            secret = owner.create_token(name="ci", role=api.Role.OPERATOR).secret
            own = (tmp_path / "store/control/owner").read_text().strip()
        with client.connect(served.addresses[1], token=secret, ca=tmp_path / "ca.pem") as operator:
            assert operator.get_caller().name == "ci"
            operator.create_volume(name="data")
        with (
            client.connect(served.addresses[1], token=own, ca=tmp_path / "ca.pem") as remote,
            pytest.raises(errors.Unauthenticated),
        ):
            remote.get_caller()  # the owner's secret is for this machine
        with served.connect() as owner:
            (entry,) = [one for one in owner.list_audit_entries() if one.caller == "ci"]
            assert entry.peer.startswith("127.0.0.1:")
    finally:
        served.stop()


def handshake(address: str, newest: ssl.TLSVersion) -> str | None:
    """The version of TLS that comes out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = newest
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=SECONDS_MAX) as connection,
        context.wrap_socket(connection) as encrypted,
    ):
        return encrypted.version()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_old_versions_of_tls_are_refused(tmp_path: Path, authority: trustme.CA) -> None:
    files = issue(authority, tmp_path, "server")
    served = ApiServer(tmp_path / "store", [TcpEndpoint(address="127.0.0.1:0", **files)])
    try:
        assert handshake(served.addresses[1], ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(served.addresses[1], ssl.TLSVersion.TLSv1_1)
    finally:
        served.stop()


def test_client_certificates(tmp_path: Path, authority: trustme.CA) -> None:
    files = issue(authority, tmp_path, "server")
    known = issue(authority, tmp_path, "known", "build.example.org")
    other = issue(trustme.CA(), tmp_path, "other", "build.example.org")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    mutual = TcpEndpoint(address="127.0.0.1:0", client_ca=tmp_path / "ca.pem", **files)
    served = ApiServer(tmp_path / "store", [mutual])
    address, ca = served.addresses[1], tmp_path / "ca.pem"
    try:
        with client.connect(address, ca=ca, **known) as builder:
            with pytest.raises(errors.Unauthenticated, match=r"build\.example\.org"):
                builder.get_caller()
            with served.connect() as owner:
                owner.create_token(name="build.example.org", role=api.Role.OPERATOR, certificate=True)
            assert builder.get_caller().name == "build.example.org"
        for wrong in (other, {}):
            with (
                client.connect(address, ca=ca, timeout_seconds=SECONDS_MAX, **wrong) as stranger,
                pytest.raises(errors.Unavailable),
            ):
                stranger.health()
    finally:
        served.stop()


def test_a_certificate_that_was_replaced_is_used(
    tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    files = issue(authority, tmp_path, "server")
    served = ApiServer(tmp_path / "store", [TcpEndpoint(address="127.0.0.1:0", **files)])

    def trusted() -> bool:
        with client.connect(served.addresses[1], ca=tmp_path / "ca.pem", timeout_seconds=SECONDS_MAX) as anybody:
            return anybody.health()

    try:
        assert trusted()
        issue(trustme.CA(), tmp_path, "server")  # another authority: its ca.pem is the one that counts now
        assert trusted()
        files["key"].write_text("no key")
        assert trusted()
        served.wait_for(lambda: "the former certificate stays in use" in caplog.text)
    finally:
        served.stop()


def test_ports_that_cannot_be_had(tmp_path: Path, authority: trustme.CA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = refused(tmp_path / "store", TcpEndpoint(address=address, plaintext=True))
        assert (type(error), address in error.message) == (errors.Unavailable, True)
        tls = TcpEndpoint(address=address, **issue(authority, tmp_path, "server"))
        assert isinstance(refused(tmp_path / "store", tls), errors.Unavailable)
    assert not (tmp_path / "store/control/socket").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "0.0.0.0:0", "plaintext": True}, "read along"),
        ({"address": "[::]:0", "plaintext": True}, "read along"),
        ({"address": "example.org:0", "plaintext": True}, "read along"),
        ({"address": "127.0.0.1:0"}, "no certificate"),
        ({"address": "0.0.0.0:0"}, "no certificate"),
        ({"address": "127.0.0.1:0", "certificate": "server.pem"}, "go together"),
        ({"address": "127.0.0.1:0", "certificate": "server.pem", "key": "server.key", "plaintext": True}, "not both"),
        ({"address": "127.0.0.1:0", "plaintext": True, "client_ca": "ca.pem"}, "need TLS"),
        ({"address": "127.0.0.1:0", "certificate": "missing", "key": "server.key"}, "cannot be read"),
        ({"address": "127.0.0.1:0", "certificate": "server.pem", "key": "other.key"}, "no certificate and its key"),
        ({"address": "127.0.0.1:0", "certificate": "server.key", "key": "server.key"}, "no certificate and its key"),
        (
            {"address": "127.0.0.1:0", "certificate": "server.pem", "key": "server.key", "client_ca": "server.key"},
            "no certificate of an authority",
        ),
        ({"address": "127.0.0.1", "plaintext": True}, "no address"),
        ({"address": ":1", "plaintext": True}, "no address"),
        ({"address": "127.0.0.1:70000", "plaintext": True}, "no address"),
        ({"address": "::1:0", "plaintext": True}, "no address"),
    ],
)
def test_what_is_not_safe_is_refused(
    tmp_path: Path, authority: trustme.CA, options: dict[str, Any], said: str
) -> None:
    issue(authority, tmp_path, "other")
    issue(authority, tmp_path, "server")
    files = {"certificate", "key", "client_ca"}
    endpoint = TcpEndpoint(**{key: tmp_path / value if key in files else value for key, value in options.items()})
    error = refused(tmp_path / "store", endpoint)
    assert (type(error), said in error.message) == (errors.Invalid, True), error.message
