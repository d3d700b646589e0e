"""Tokens: `TokenAuthentication` finds out who calls by what the metadata says, `BearerToken` says it."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any, Final

from echostream.errors import CertificateError, ConfigurationError, RpcError, Status
from echostream.middleware.base import Middleware
from echostream.session.chains import Notice, NoticeNext, Opening, OpeningNext, Request, RequestNext
from echostream.session.context import Context
from echostream.session.session import Principal, Session, checked_principal
from echostream.types import Metadata

__all__ = ("BearerToken", "Check", "TokenAuthentication")

_KEY: Final = "authorization"
_SCHEME: Final = "bearer "

Check = Callable[[str], Principal | Awaitable[Principal | None] | None]
"""Given a token, returns who has it, or None to refuse; plain or async."""


class TokenAuthentication(Middleware):
    """Finds out who calls by the metadata ``authorization: Bearer <token>`` (RFC 6750) and sets ``ctx.principal``.

    For calls, events and application streams, each by what it brings along. A wrong token is refused with
    UNAUTHENTICATED, and so is none, unless `required` is False. What the connection itself has to prove is the
    business of the server's ``authenticate=``.
    """

    def __init__(self, tokens: Mapping[str, Principal] | Check, *, required: bool = True) -> None:
        """Make one.

        Args:
            tokens: the principal of each token, or a function that finds it, plain or async.
            required: False lets those without a token through, as nobody or as the session's principal.

        Raises:
            ConfigurationError: `tokens` is neither, one of them is empty, or stands for no Principal.
        """
        self._check: Check
        if callable(tokens):
            self._check = tokens
        elif _is_table(tokens):
            self._check = _of_table({token.encode(): principal for token, principal in tokens.items()})
        else:
            raise ConfigurationError("tokens", "give a mapping from token to Principal, or a function; no empty token")
        self._required = required

    def __repr__(self) -> str:
        return f"<TokenAuthentication required={self._required}>"  # and nothing of the tokens

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        await self._authenticate(request.context, request.metadata, request.method)
        return await call_next(request)

    async def inbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        await self._authenticate(notice.context, notice.metadata, notice.name)
        return await call_next(notice)

    async def inbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        await self._authenticate(opening.context, opening.metadata, opening.name)
        return await call_next(opening)

    async def _authenticate(self, context: Context | None, metadata: Mapping[str, str | bytes], what: str) -> None:
        value = metadata.get(_KEY)
        if value is None and not self._required:
            return
        if not isinstance(value, str) or value[: len(_SCHEME)].lower() != _SCHEME:
            raise RpcError(Status.UNAUTHENTICATED, f"{what} needs the metadata {_KEY!r}: 'Bearer <token>'")
        found = self._check(value[len(_SCHEME) :].strip())
        principal = checked_principal(await found if isawaitable(found) else found, "tokens")
        if principal is None:
            raise RpcError(Status.UNAUTHENTICATED, f"the token for {what} is not accepted")
        if context is not None:
            context.principal = principal


class BearerToken(Middleware):
    """Sends a token along with every call, event and stream of this side, as `TokenAuthentication` wants it.

    To a server that was found by name and met for the first time it sends nothing and raises `CertificateError`.
    """

    def __init__(self, token: str | Callable[[], str | Awaitable[str]]) -> None:
        """Make one.

        Args:
            token: the token, or a function that has a fresh one each time, plain or async.

        Raises:
            ConfigurationError: `token` is empty, or neither a text nor a function.
        """
        if not callable(token):
            _checked_token(token)
        self._token = token

    def __repr__(self) -> str:
        return "<BearerToken>"  # and nothing of the token

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        await self._add(request.session, request.metadata)
        return await call_next(request)

    async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        if notice.session is not None:  # a broadcast goes to many
            await self._add(notice.session, notice.metadata)
        return await call_next(notice)

    async def outbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        await self._add(opening.session, opening.metadata)
        return await call_next(opening)

    async def _add(self, session: Session, metadata: Metadata) -> None:
        if not session.trusted:
            raise CertificateError(
                "this server was met for the first time, so no token is sent to it: connect once more now that its"
                ' certificate is remembered, or say trust="first-use", or name its ca or fingerprint'
            )
        found = self._token() if callable(self._token) else self._token
        token = _checked_token(await found if isawaitable(found) else found)
        metadata.setdefault(_KEY, f"Bearer {token}")


def _checked_token(token: object) -> str:
    if isinstance(token, str) and token.strip():
        return token
    shown = "an empty text" if isinstance(token, str) else type(token).__name__
    raise ConfigurationError("token", f"{shown} is no token: give a text, or a function that returns one")


def _is_table(tokens: object) -> bool:
    return (
        isinstance(tokens, Mapping)
        and all(isinstance(token, str) and token for token in tokens)
        and all(isinstance(principal, Principal) for principal in tokens.values())
    )


def _of_table(table: Mapping[bytes, Principal]) -> Check:
    def check(token: str) -> Principal | None:
        given, found = token.encode(), None
        for known, principal in table.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = principal
        return found

    return check
