"""Tests for echostream.transport.quic.diagnostics: what wireshark and qvis read, and that it is never in the way."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from echostream import RpcClient, RpcServer, handler, service
from echostream.transport.quic import diagnostics
from echostream.transport.quic.diagnostics import QlogFile, key_log, qlog_directory
from echostream.transport.tls import ServerTls
from echostream.types import clock
from tests.transport.capture import TSHARK, dissect, write_capture
from tests.transport.lab import CLIENT, Lab, Pair, both_engines, every_pair
from tests.transport.relay import Relay

LABELS = {
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
}
"""Of the NSS key log, for TLS 1.3 without early data."""


@pytest.fixture(scope="module")
def tls() -> ServerTls:
    return ServerTls.load()


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The key log, switched on."""
    path = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    return path


@pytest.fixture
def qlogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of qlogs, switched on."""
    path = tmp_path / "qlogs"
    monkeypatch.setenv("QLOGDIR", str(path))
    return path


def talk(lab: Lab) -> Lab:
    """A session with a stream and its end."""
    lab.run()
    stream = lab.client.open_stream(unidirectional=True)
    lab.client.send(stream, bytes(20_000), fin=True)
    lab.run()
    lab.client.close(4000, "bye")
    lab.carry(lab.client, lab.server, CLIENT)
    lab.run(1)
    return lab


def events(path: Path) -> list[dict[str, Any]]:
    """What a qlog tells; the file is whole."""
    log = json.loads(path.read_text())
    assert log["qlog_version"] == "0.3"
    [trace] = log["traces"]
    found: list[dict[str, Any]] = trace["events"]
    return found


@every_pair
def test_the_key_log_has_the_secrets_of_both_directions(tls: ServerTls, engines: Pair, keys: Path) -> None:
    keys.write_text("# an older session\n")
    Lab(tls, engines).run()
    comment, *lines = keys.read_text().splitlines()
    assert comment == "# an older session"
    secrets: dict[str, set[str]] = {}
    for line in lines:
        label, client_random, secret = line.split()
        assert len(bytes.fromhex(client_random)) == 32
        assert len(bytes.fromhex(secret)) in (32, 48)
        secrets.setdefault(label, set()).add(secret)
    assert set(secrets) == LABELS
    assert {len(found) for found in secrets.values()} == {1}  # both sides say the same


@pytest.mark.usefixtures("qlogs")
def test_keys_and_qlogs_are_the_owners_alone(tls: ServerTls, keys: Path, qlogs: Path) -> None:
    Lab(tls).run()
    for path in (keys, *qlogs.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_logged_unless_it_is_asked_for(
    tls: ServerTls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SSLKEYLOGFILE", "QLOGDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    lab = Lab(tls)
    assert lab.client._quic.configuration.secrets_log_file is None
    assert lab.client._quic.configuration.quic_logger is None
    talk(lab)
    assert list(tmp_path.iterdir()) == []


@every_pair
def test_each_side_has_a_qlog_of_what_happened(tls: ServerTls, engines: Pair, qlogs: Path) -> None:
    talk(Lab(tls, engines))
    client, server = sorted(qlogs.iterdir())
    assert client.name.removesuffix("_client.qlog") == server.name.removesuffix("_server.qlog")
    for path, sent in ((client, True), (server, False)):
        found = events(path)
        names = {event["name"] for event in found}
        assert names >= {
            "transport:parameters_set",
            "transport:packet_sent",
            "transport:datagrams_received",
            "recovery:metrics_updated",
            "security:key_updated",
        }
        [closed] = [event["data"] for event in found if event["name"] == "connectivity:connection_closed"]
        assert closed == {"owner": "local" if sent else "remote", "connection_code": 4000, "reason": "bye"}
        times = [event["time"] for event in found]
        assert times == sorted(times)
        assert times[0] >= 0
    packets = [event["data"] for event in events(client) if event["name"] == "transport:packet_sent"]
    numbers = [packet["header"].get("packet_number") for packet in packets if packet["header"]["packet_type"] == "1RTT"]
    known = [number for number in numbers if number is not None]
    assert len(known) > 10
    assert known == sorted(set(known))
    assert max(event["data"].get("cwnd", 0) for event in events(client)) > 10_000


def test_a_qlog_can_be_read_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.qlog"
    log = QlogFile(path, is_client=True, odcid=b"12345678", engine="lab")
    assert events(path) == []
    now = log._start
    monkeypatch.setattr(clock, "monotonic", lambda: now, raising=False)
    log.log_event(category="transport", event="packet_sent", data={"raw": {"length": 1}})
    assert events(path) == []  # many at once are cheaper
    now += 1.5
    log.log_event(category="transport", event="packet_sent", data={"raw": {"length": 2}})
    assert [event["data"]["raw"]["length"] for event in events(path)] == [1, 2]
    assert events(path)[1]["time"] == pytest.approx(1500)
    log.log_event(category="transport", event="packet_sent", data={"raw": {"length": 3}, "hex": "00" * 70_000})
    assert len(events(path)) == 3  # or when it is much
    log.end(owner="local", code=0, reason="done")
    log.log_event(category="transport", event="packet_sent", data={"raw": {"length": 4}})
    assert [event["name"] for event in events(path)[3:]] == ["connectivity:connection_closed", "transport:packet_sent"]


def test_a_qlog_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(diagnostics, "MAX_QLOG_BYTES", 100_000)
    path = tmp_path / "one.qlog"
    log = QlogFile(path, is_client=True, odcid=b"12345678", engine="lab")
    for _ in range(5):
        log.log_event(category="transport", event="packet_sent", data={"hex": "00" * 40_000})
    assert len(events(path)) == 2
    assert caplog.messages == [f"! {path} is full: no more of this connection is written"]


@pytest.mark.parametrize(("variable", "read"), [("SSLKEYLOGFILE", key_log), ("QLOGDIR", qlog_directory)])
def test_a_path_that_cannot_be_written_is_told_once(
    tls: ServerTls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    read: Any,
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x"
    monkeypatch.setenv(variable, str(path))
    for _ in range(2):
        assert read() is None
    [message] = caplog.messages
    assert message.startswith(f"! {variable}={path}: not a directory; ")
    assert message.endswith("that this program may write")
    lab = Lab(tls)
    lab.run()
    assert lab.at_client.protocol is not None


@both_engines
def test_a_path_that_goes_away_disturbs_no_connection(
    tls: ServerTls, engines: Pair, keys: Path, qlogs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab(tls, engines)
    lab.carry(lab.client, lab.server, CLIENT)
    keys.unlink()
    keys.mkdir()
    for path in qlogs.iterdir():
        path.unlink()
    caplog.clear()
    talk(lab)
    assert lab.at_server.calls[-1] == ("closed", True, 4000, "bye", True)
    messages = sorted(message.rpartition(": ")[2] for message in caplog.messages)
    assert messages == ["is a directory"] + ["no such file or directory"] * 2


def test_python_without_environment_reads_none(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_log() is not None

    class Flags:
        ignore_environment = 1

    monkeypatch.setattr(sys, "flags", Flags)
    assert key_log() is None


@service("greeter")
class Greeter:
    @handler
    async def hello(self, name: str) -> str:
        return f"hello, {name}"


@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
@both_engines
@pytest.mark.slow
async def test_wireshark_reads_a_session(engines: Pair, keys: Path, tmp_path: Path) -> None:
    server = RpcServer("quic://127.0.0.1:0", engine=engines[1])
    server.register(Greeter())
    async with server, Relay(server.addresses[0]) as relay:
        async with RpcClient.connect(relay.url, engine=engines[0], ca="dev") as client:
            assert await client.proxy(Greeter).hello("wireshark") == "hello, wireshark"
        packets = list(relay.passed)
    path = tmp_path / "session.pcap"
    write_capture(path, packets)
    assert dissect(path, keys, "quic.decryption_failed") == []
    data = bytes.fromhex("".join(dissect(path, keys, "quic.stream_data")).replace(",", ""))
    assert b"\xa9wireshark" in data  # the argument, as MessagePack
    assert b"\xb0hello, wireshark" in data
    frames = {kind for line in dissect(path, keys, "quic.frame_type") for kind in line.split(",")}
    assert frames & {"28", "29"}  # the close is readable, too
