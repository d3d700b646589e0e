"""Tests for echostream.wiring: transports by scheme, and who this process is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from echostream import ConfigurationError, Limits, wiring


@pytest.mark.parametrize("scheme", ["quic", "memory"])
def test_a_scheme_has_its_transport(scheme: str) -> None:
    assert wiring.make_transport(scheme, "auto", Limits()).scheme == scheme


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        wiring.make_transport("carrier-pigeon", "auto", Limits())
    assert caught.value.message == "url: unknown scheme 'carrier-pigeon', expected quic:// or memory://"


def test_the_agent_names_implementation_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, version = wiring.AGENT.partition("/")
    assert name == "echostream-python"
    assert version == wiring._version()

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(wiring, "version", missing)
    assert wiring._version() == "0"


def test_the_epoch_is_a_64_bit_number() -> None:
    assert 0 <= wiring.EPOCH < 1 << 64
