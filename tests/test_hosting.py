"""Tests for echostream.hosting: the announcement of a server, and the signals that stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from echostream import ConfigurationError
from echostream.hosting import Announcement, make_advertiser, on_stop_signals
from echostream.types import random_bytes
from echostream.wiring import EPOCH
from echostream_derive import ServiceSpec, handler, service, service_spec
from tests.serving import until

FINGERPRINT = random_bytes(32).hex()


@service("orders", version="1.4.2")
class Orders:
    @handler
    async def place(self) -> None: ...


@service("billing", version="2.0.0")
class Billing:
    @handler
    async def pay(self) -> None: ...


SERVICES: dict[str, ServiceSpec] = {"orders": service_spec(Orders), "billing": service_spec(Billing)}


def announced(wanted: Announcement, *urls: str, services: dict[str, ServiceSpec] = SERVICES) -> Any:
    return make_advertiser(wanted, urls or ("quic://127.0.0.1:4433",), services, FINGERPRINT).service


NOTHING_SAID = Announcement(None, None, None, ("127.0.0.1",))


def test_a_server_is_called_after_its_first_service() -> None:
    info = announced(NOTHING_SAID)
    assert (info.name, info.version, info.services) == ("orders", "1.4.2", ("orders", "billing"))
    assert (info.addresses, info.port, info.scheme) == (("127.0.0.1",), 4433, "quic")
    assert (info.fingerprint, info.id) == (FINGERPRINT, f"{EPOCH:016x}")


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("billing", None, ("billing", "2.0.0")),
        ("shop", None, ("shop", "")),
        ("orders", "9", ("orders", "9")),
        ("shop", "9", ("shop", "9")),
    ],
)
def test_what_is_said_goes_first(name: str, version: str | None, expected: tuple[str, str]) -> None:
    info = announced(Announcement(name, version, {"zone": "a"}, None))
    assert (info.name, info.version) == expected
    assert info.metadata == {"zone": "a"}


def test_the_first_network_address_is_announced() -> None:
    info = announced(NOTHING_SAID, "memory://orders", "quic://[::1]:1", "quic://127.0.0.1:2")
    assert (info.addresses, info.port) == (("::1",), 1)


def test_all_interfaces_are_announced_by_their_addresses() -> None:
    info = announced(NOTHING_SAID, "quic://0.0.0.0:1")
    assert info.addresses
    assert "0.0.0.0" not in info.addresses


def test_a_server_without_network_address_cannot_be_announced() -> None:
    with pytest.raises(ConfigurationError) as caught:
        announced(NOTHING_SAID, "memory://orders")
    assert caught.value.message == "enable_discovery: the server has no network address to announce"


def test_a_server_without_name_cannot_be_announced() -> None:
    with pytest.raises(ConfigurationError) as caught:
        announced(NOTHING_SAID, services={})
    assert caught.value.message == "enable_discovery: give a name: no service is registered to take it from"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_stops_and_gives_the_second_its_meaning_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stops: list[int] = []
    restore = on_stop_signals(asyncio.get_running_loop(), lambda: stops.append(1))
    try:
        os.kill(os.getpid(), number)
        await until(lambda: stops)
        assert signal.getsignal(number) is (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    finally:
        restore()
        signal.signal(number, before)
    assert stops == [1]


async def test_meaning_is_given_back_without_a_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    restore = on_stop_signals(asyncio.get_running_loop(), lambda: None)
    assert signal.getsignal(signal.SIGTERM) is not before
    restore()
    assert signal.getsignal(signal.SIGTERM) is before


async def test_where_signals_cannot_be_handled_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(*args: object) -> None:
        raise NotImplementedError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_signal_handler", impossible)
    restore = on_stop_signals(loop, lambda: None)
    restore()


def test_in_another_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    done: list[bool] = []

    async def main() -> None:
        on_stop_signals(asyncio.get_running_loop(), lambda: None)()
        done.append(True)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert done == [True]
    assert signal.getsignal(signal.SIGTERM) is before
