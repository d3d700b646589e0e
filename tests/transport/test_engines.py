"""Tests for echostream.transport.quic.engines: which implementation a name means on this machine."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.errors import ConfigurationError
from echostream.transport.base import Address
from echostream.transport.quic import QuicTransport, transport
from echostream.transport.quic import engines as engines_module
from echostream.transport.quic.engine_aioquic import AioquicEngines
from echostream.transport.sockets import listen_udp
from echostream.transport.tls import ServerTls
from tests.transport.lab import Pair, engine_module, every_server


def install_qh3(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(name: str) -> str:
        assert name == "qh3"
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(engines_module, "version", version)
    monkeypatch.setattr(engines_module, "_missing_qh3", engines_module._missing_qh3.__wrapped__)  # asks each time


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        QuicTransport(engine="msquic")
    assert caught.value.message == "engine: 'msquic' is unknown, choose auto, aioquic or qh3"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "qh3 is not installed"),
        ("1.4.2", "qh3 1.4.2 is installed, 2.1.x is needed"),
        ("2.10.0", "qh3 2.10.0 is installed, 2.1.x is needed"),
    ],
)
def test_an_engine_that_is_not_there_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, found: str | None, said: str
) -> None:
    install_qh3(monkeypatch, found)
    with pytest.raises(ConfigurationError) as caught:
        QuicTransport(engine="qh3")
    assert caught.value.message == f'engine: {said}: pip install "echostream[fast]"'
    assert isinstance(engines_module.load_engines("auto", QuicSettings()), AioquicEngines)
    assert QuicTransport(engine="auto").scheme == QuicTransport(engine="aioquic").scheme == "quic"


def test_auto_takes_qh3_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("qh3")
    from echostream.transport.quic.engine_qh3 import Qh3Engines

    assert isinstance(engines_module.load_engines("auto", QuicSettings()), Qh3Engines)
    assert isinstance(engines_module.load_engines("qh3", QuicSettings()), Qh3Engines)
    assert isinstance(engines_module.load_engines("aioquic", QuicSettings()), AioquicEngines)


@every_server
async def test_a_server_is_ready_only_when_its_engine_is_warm(engines: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first key exchange of a process may take long: no client shall wait for it."""
    done: list[str] = []

    def bind(*args: Any, **options: Any) -> Any:
        done.append("bound")
        return listen_udp(*args, **options)

    def warm_up(self: object, tls: ServerTls) -> None:
        done.append("warm")

    name = f"{engines[1].capitalize()}Engines"
    monkeypatch.setattr(getattr(engine_module(engines[1]), name), "warm_up", warm_up)
    monkeypatch.setattr(transport, "listen_udp", bind)
    server = QuicTransport(engine=engines[1])
    address = Address("quic", "127.0.0.1", 0)
    listener = await server.listen(address, accept=lambda connection: None, tls=ServerTls.load())  # type: ignore[arg-type, return-value]
    await listener.close()
    assert done == ["warm", "bound"]
