"""Token buckets: so many calls in a second for each session, principal, method, or whatever else is counted by."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Literal

from echostream.bucket import TokenBucket
from echostream.config import MAX_RATE_LIMIT_KEYS
from echostream.errors import ConfigurationError, RpcError, Status
from echostream.middleware.base import Middleware
from echostream.session.chains import Request, RequestNext
from echostream.types import clock

__all__ = ("RateLimit",)

_By = Literal["session", "principal", "method"]


class RateLimit(Middleware):
    """Refuses calls that come faster than allowed, with RESOURCE_EXHAUSTED and the time after which to try again.

    A bucket holds `burst` tokens and gains `rate` of them a second; a call takes one. Unknown methods count too.
    """

    def __init__(
        self,
        rate: float,
        *,
        burst: int | None = None,
        by: _By | Callable[[Request], Hashable] = "session",
        max_keys: int = MAX_RATE_LIMIT_KEYS,
    ) -> None:
        """Make one.

        Args:
            rate: calls a second in the long run.
            burst: calls at once after a rest; left out, those of one second.
            by: who has a bucket: every session, every principal (a session without one: that session), every method
                (for all sessions together), or what a function returns; None from it is not limited.
            max_keys: buckets kept; the one not used for the longest time gives way, which has filled up most.

        Raises:
            ConfigurationError: a number is out of range, or `by` is unknown.
        """
        if not 0 < rate < math.inf:
            raise ConfigurationError(
                "rate", f"{rate!r} must be above 0 calls a second; leave the layer out for no limit"
            )
        for name, value in (("max_keys", max_keys), ("burst", burst if burst is not None else 1)):
            if not value >= 1:
                raise ConfigurationError(name, f"{value!r} must be at least 1")
        if not callable(by) and by not in _KEYS:
            raise ConfigurationError("by", f"{by!r} is none of {', '.join(_KEYS)}, nor a function")
        self._rate = rate
        self._burst = float(burst if burst is not None else max(1, round(rate)))
        self._key: Callable[[Request], Hashable] = by if callable(by) else _KEYS[by]
        self._what = by if isinstance(by, str) else "key"
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()
        self.refused = 0
        """Calls refused so far."""

    def __len__(self) -> int:
        return len(self._buckets)

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        key = self._key(request)
        if key is not None:
            self._take(key)
        return await call_next(request)

    def _take(self, key: Hashable) -> None:
        now = clock.monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, burst=self._burst)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        if not bucket.take(now):
            self.refused += 1
            raise RpcError(
                Status.RESOURCE_EXHAUSTED,
                f"over {self._rate:g} calls a second for this {self._what}",
                retry_after=bucket.wait(now),
                details={"unprocessed": True},
            )


def _principal(request: Request) -> Hashable:
    principal = request.context.principal if request.context is not None else None
    return ("principal", principal.name) if principal is not None else ("session", request.session.id)


_KEYS: dict[str, Callable[[Request], Hashable]] = {
    "session": lambda request: request.session.id,
    "principal": _principal,
    "method": lambda request: request.method,
}
