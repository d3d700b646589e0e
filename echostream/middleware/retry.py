"""Trying calls again, with the names and rules of gRFC A6 (https://github.com/grpc/proposal, A6-client-retries.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from echostream.config import RetrySettings
from echostream.errors import ConfigurationError, EchoStreamError, Status
from echostream.middleware.base import Middleware
from echostream.session.chains import Request, RequestNext
from echostream.session.context import deadline_of
from echostream.types import random_source

__all__ = ("Retry",)


class Retry(Middleware):
    """Tries calls of this side again that failed in passing.

    A call is tried again when its status is in `retryable_status_codes` and its handler is marked `idempotent` or
    `safe`, or when the error says that no handler ran (a server that stops, a rate limit). Never after its first item
    came, nor when the call itself sends items, nor when the deadline comes before the next attempt. A `retry_after` of
    the server takes the place of the backoff, and of the budget: when many calls fail without one, the budget stops all
    retries.
    """

    def __init__(
        self,
        settings: RetrySettings | None = None,
        *,
        retryable_status_codes: Collection[Status] = (Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED),
    ) -> None:
        """Make one; best one for each server, because the budget is what that server bears.

        Args:
            settings: attempts, waits and budget.
            retryable_status_codes: what may pass.

        Raises:
            ConfigurationError: one is no status of an error.
        """
        self._settings = settings if settings is not None else RetrySettings()
        self._codes = frozenset(map(_failure, retryable_status_codes))
        self._tokens = float(self._settings.max_tokens)

    @property
    def tokens(self) -> float:
        """What is left of the budget."""
        return self._tokens

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        settings, loop = self._settings, asyncio.get_running_loop()
        start, backoff = loop.time(), settings.initial_backoff
        for attempt in range(1, settings.max_attempts + 1):
            try:
                reply = await call_next(request)
            except EchoStreamError as error:
                wait = backoff * random_source.uniform(0.8, 1.2)
                if error.retry_after is not None:
                    wait, backoff = error.retry_after, settings.initial_backoff
                else:
                    backoff = min(backoff * settings.backoff_multiplier, settings.max_backoff)
                deadline, _ = deadline_of(start, request.timeout)  # or the nearer one of the handler that calls
                late = deadline is not None and loop.time() + wait >= deadline
                if late or attempt == settings.max_attempts or not self._may_retry(request, error):
                    raise
                await asyncio.sleep(wait)
            else:
                self._tokens = min(settings.max_tokens, self._tokens + settings.token_ratio)
                return reply
        raise AssertionError  # the last attempt returned or raised

    def _may_retry(self, request: Request, error: EchoStreamError) -> bool:
        if not (error.unprocessed or error.code in self._codes):
            return False  # the server is well and said no: that is no reason to spare it
        if error.retry_after is None:  # else the server itself says what it bears
            self._tokens = max(0.0, self._tokens - 1)
            if self._tokens <= self._settings.max_tokens / 2:
                return False
        return (
            (error.unprocessed or (request.idempotent and error.retryable))
            and not request.sends_items
            and not request.items_received
            and request.session.state == "open"
        )


def _failure(code: object) -> Status:
    if not isinstance(code, Status) or code is Status.OK:
        raise ConfigurationError(
            "retryable_status_codes", f"{code!r} is no status of an error: Status.UNAVAILABLE is one"
        )
    return code
