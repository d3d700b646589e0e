"""This machine's own addresses."""

from __future__ import annotations

import ipaddress
import os
import socket

import pytest

from echostream.transport.interfaces import local_addresses


def test_addresses_are_real_and_listed_once() -> None:
    found = [ipaddress.ip_address(item) for item in local_addresses()]
    assert len(set(found)) == len(found)
    assert not any(item.is_unspecified or item.is_multicast for item in found)


def test_machine_without_network_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(101, os.strerror(101))

    monkeypatch.setattr(socket, "socket", refuse)
    assert local_addresses() == ()
