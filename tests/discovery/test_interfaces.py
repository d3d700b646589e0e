"""Which interfaces discovery uses, and which addresses a server announces."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from echostream.discovery import interfaces
from echostream.discovery.interfaces import DEFAULT_INTERFACES, LOOPBACK, announced_addresses, usable_interfaces
from echostream.errors import ConfigurationError, Status, TransportError


@pytest.mark.parametrize(
    ("host", "local", "expected"),
    [
        ("0.0.0.0", ("192.0.2.1", "fd00::1"), ("192.0.2.1",)),
        ("::", ("192.0.2.1", "fd00::1"), ("192.0.2.1", "fd00::1")),
        ("0.0.0.0", (), ("127.0.0.1",)),
        ("0.0.0.0", ("fd00::1",), ("127.0.0.1",)),
        ("::", (), ("127.0.0.1", "::1")),
        ("192.0.2.7", ("192.0.2.1",), ("192.0.2.7",)),
        ("127.0.0.1", ("192.0.2.1",), ("127.0.0.1",)),
    ],
)
def test_announced_addresses(host: str, local: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert announced_addresses(host, local) == expected


def test_loopback_is_always_usable() -> None:
    assert usable_interfaces(["127.0.0.1"]) == LOOPBACK
    assert usable_interfaces(["127.0.0.1", "::1"]) == ("127.0.0.1", "::1")


def test_without_network_only_this_machine_is_seen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_network(address: str) -> None:
        if address == "0.0.0.0":
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(interfaces, "_try_multicast", no_network)
    assert usable_interfaces(DEFAULT_INTERFACES) == LOOPBACK
    assert (
        "! no multicast on the default interface ([Errno 19] No such device): only this machine is seen" in caplog.text
    )


def test_with_network_the_default_interface_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(interfaces, "_try_multicast", tried.append)
    assert usable_interfaces(DEFAULT_INTERFACES) == DEFAULT_INTERFACES
    assert tried == ["0.0.0.0", "127.0.0.1"]


@pytest.mark.parametrize("wrong", ["192.0.2.222", "eth0"])
def test_named_interface_that_does_not_work_is_refused(wrong: str) -> None:
    with pytest.raises(
        TransportError, match=f"discovery cannot use {wrong} .*: choose other interfaces, or do without"
    ) as e:
        usable_interfaces([wrong])
    assert e.value.code is Status.UNAVAILABLE
    assert 'RpcClient.connect("quic://host:4433")' in e.value.message


def test_interfaces_are_a_list() -> None:
    with pytest.raises(ConfigurationError, match=r"interfaces: give a list of addresses: \['127.0.0.1'\]"):
        usable_interfaces("127.0.0.1")


def test_failed_try_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []
    original = socket.socket

    def remember(*args: int) -> socket.socket:
        opened.append(original(*args))
        return opened[-1]

    monkeypatch.setattr(socket, "socket", remember)
    with pytest.raises(TransportError):
        usable_interfaces(["192.0.2.222"])
    assert [item.fileno() for item in opened] == [-1]
