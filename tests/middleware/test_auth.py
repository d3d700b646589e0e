"""Tests for echostream.middleware.auth: who has which token, and what is said to the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from echostream import ConfigurationError, EventAck, Principal, RpcError, RpcServer, Status, handler, service
from echostream.errors import CertificateError
from echostream.middleware import BearerToken, Middleware, TokenAuthentication
from echostream.testing import connect_in_memory
from tests.middleware.world import Desk, make_server

ANN = Principal("ann", frozenset({"vault:open"}))
TOKENS = {"key of ann": ANN, "key of bob": Principal("bob")}


async def find(token: str) -> Principal | None:
    await asyncio.sleep(0)
    return TOKENS.get(token)


@service("vault")
class Vault:
    @handler(requires="vault:open")
    async def open(self) -> str:
        return "gold"


def who(*client: Middleware, server: Any = TOKENS, **options: Any) -> Any:
    made, desk = make_server(TokenAuthentication(server, **options))
    made.register(Vault())
    made.desk = desk  # type: ignore[attr-defined]
    return made, connect_in_memory(made, middleware=client, raise_server_exceptions=False)


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS.get, find], ids=["table", "function", "async function"])
async def test_a_token_stands_for_a_principal(tokens: Any) -> None:
    _, connecting = who(BearerToken("key of ann"), server=tokens)
    async with connecting as client:
        assert (await client.proxy(Desk).who())[0] == "ann"
        assert await client.proxy(Vault).open() == "gold"
    _, connecting = who(BearerToken("key of bob"), server=tokens)
    async with connecting as client:
        with pytest.raises(RpcError, match="which bob lacks") as caught:
            await client.proxy(Vault).open()
        assert caught.value.code is Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Bearer key of eve", "the token for desk.who is not accepted"),
        ("Bearer ", "the token for desk.who is not accepted"),
        ("key of ann", "desk.who needs the metadata 'authorization': 'Bearer <token>'"),
        ("Basic key of ann", "desk.who needs the metadata 'authorization'"),
        (None, "desk.who needs the metadata 'authorization'"),
        ("Bearer \u00fc", "not accepted"),
    ],
)
async def test_others_are_refused_and_learn_nothing(value: str | None, text: str) -> None:
    _, connecting = who()
    async with connecting as client:
        for method in ("desk.who", "desk.whi"):
            metadata = {} if value is None else {"authorization": value}
            with pytest.raises(RpcError) as caught:
                await client.request(method, metadata=metadata)
            assert caught.value.code is Status.UNAUTHENTICATED
            assert text.replace("desk.who", method) in caught.value.message


async def test_the_scheme_is_known_in_any_case() -> None:
    _, connecting = who()
    async with connecting as client:
        assert (await client.request("desk.who", metadata={"authorization": "bearer key of bob"}))[0] == "bob"


async def test_those_without_a_token_may_be_let_through_but_not_those_with_a_wrong_one() -> None:
    _, connecting = who(required=False)
    async with connecting as client:
        assert (await client.proxy(Desk).who())[0] == "nobody"
        with pytest.raises(RpcError, match=r"vault\.open requires 'vault:open'; connect with credentials"):
            await client.proxy(Vault).open()
        with pytest.raises(RpcError, match="not accepted"):
            await client.request("desk.who", metadata={"authorization": "Bearer wrong"})


async def test_events_and_streams_need_a_token_too() -> None:
    server, connecting = who()
    authorised, wrong = ({"authorization": f"Bearer key of {name}"} for name in ("ann", "eve"))
    async with connecting as client:
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 1)
        assert await client.emit("thing", 2, ack=True, metadata=authorised) == EventAck(1, 0)
        for metadata, text in (({}, "belt needs the metadata"), (wrong, "the token for belt is not accepted")):
            with pytest.raises(RpcError, match=text) as caught:
                await client.open_stream("belt", metadata=metadata)
            assert caught.value.code is Status.UNAUTHENTICATED
        async with client.open_stream("belt", metadata=authorised) as sender:
            for number in (4, 5):
                await sender.send(number)
                assert await sender.receiver.recv() == number
    assert server.desk.heard == [2, 4, 5]


async def test_the_token_goes_along_when_a_stream_is_opened() -> None:
    server, connecting = who(BearerToken("key of ann"))
    async with connecting as client, client.open_stream("belt", metadata={"kind": "new"}) as sender:
        await sender.send(3)
        assert await sender.receiver.recv() == 3
    assert server.desk.heard == [3]


async def test_a_fresh_token_each_time() -> None:
    tokens = iter(["key of ann", "key of bob"])

    async def fresh() -> str:
        return next(tokens)

    _, connecting = who(BearerToken(fresh))
    async with connecting as client:
        assert [(await client.proxy(Desk).who())[0] for _ in range(2)] == ["ann", "bob"]
    server, connecting = who(BearerToken(lambda: "key of bob"))
    async with connecting as client:
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 0)
    assert server.desk.heard == [1]


async def test_a_check_that_raises_refuses() -> None:
    def broken(token: str) -> Principal | None:
        raise OSError("no database")

    _, connecting = who(BearerToken("x"), server=broken)
    async with connecting as client:
        with pytest.raises(RpcError, match="internal error"):
            await client.proxy(Vault).open()


@pytest.mark.parametrize("answer", [True, False, "ann"])
async def test_a_check_that_says_neither_who_nor_none_refuses(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, connecting = who(BearerToken("x"), server=lambda _: answer)
    async with connecting as client:
        with pytest.raises(RpcError, match="internal error"):
            await client.proxy(Desk).who()
    assert f"tokens: the function returned an object of {type(answer).__name__}" in caplog.text


@pytest.mark.parametrize("token", [None, "", " ", 7])
async def test_no_token_is_said_where_it_is_missing(token: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no token: give a text, or a function that returns one"):
        BearerToken(token)
    server, connecting = who(BearerToken(lambda: token))
    async with connecting as client:
        with pytest.raises(ConfigurationError, match="is no token"):
            await client.proxy(Desk).who()
    assert server.desk.ran == 0


@pytest.mark.parametrize("tokens", [{"": ANN}, "key", None, {"key": "ann"}, {7: ANN}, ["key"]])
def test_no_token_is_no_configuration(tokens: Any) -> None:
    with pytest.raises(ConfigurationError, match="tokens: give a mapping from token to Principal, or a function"):
        TokenAuthentication(tokens)


def test_tokens_are_not_shown() -> None:
    assert "key" not in repr(TokenAuthentication(TOKENS)) + repr(BearerToken("key of ann"))


async def test_a_broadcast_carries_no_token() -> None:
    server = RpcServer("memory://unused", middleware=[BearerToken("mine")])
    async with connect_in_memory(server):
        assert server.broadcast("news").sent == 1


async def test_no_token_goes_to_a_server_that_was_met_for_the_first_time() -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append("token")
        return "key of ann"

    server, connecting = who(BearerToken(token))
    async with connecting as client:
        client.session.trusted = False
        with pytest.raises(CertificateError, match="met for the first time, so no token is sent to it"):
            await client.proxy(Desk).who()
        with pytest.raises(CertificateError):
            await client.emit("thing", 1)
        with pytest.raises(CertificateError):
            await client.open_stream("belt")
        client.session.trusted = True
        assert (await client.proxy(Desk).who())[0] == "ann"
    assert asked == ["token"]
    assert server.desk.heard == []
