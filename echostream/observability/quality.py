"""Metrics of quality by OpenTelemetry's API: latency, jitter, loss, buffers and clocks of servers and clients.

Nothing is counted for them: the callbacks of observable instruments read, when a collector asks, what is there anyway.
A collector has a thread of its own as a rule. Streams and sessions belong to the thread of their event loop and are
looked at there, a few in each turn; the collector waits for that, `METRICS_WAIT` at the most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from functools import cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from echostream.client import RpcClient
from echostream.config import MAX_METRIC_PEERS, METRICS_WAIT
from echostream.errors import ConfigurationError, LocalProtocolError
from echostream.observability.figures import METRICS, PEER, Attributes, Figures, Metric, put, read_counts, read_levels
from echostream.server import RpcServer
from echostream.session.ledger import NOTHING, OTHER
from echostream.types import clock
from echostream.wiring import VERSION

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
except ImportError as error:
    raise ImportError(
        "echostream.observability.quality needs opentelemetry-api, which comes with an extra:"
        " pip install 'echostream[otel]'"
    ) from error

if TYPE_CHECKING:
    from echostream.session.ledger import QualityLedger

__all__ = ("observe_quality",)

_FRESH: Final = 1.0
"""Seconds that one look serves the instruments of one collection, which are asked one after the other."""


def observe_quality(
    source: RpcServer | RpcClient, meter: Meter | None = None, *, peers: bool = True
) -> Callable[[], None]:
    """Tell OpenTelemetry how the streams and sessions of a server or client do.

    It may be called before a server starts, and goes on when it starts again. Several servers and clients may share a
    meter: their counts are added up. Counts begin with this call, include streams that have ended, and never fall.

    Args:
        source: what to observe.
        meter: whose instruments to make; left out, one named ``echostream`` of the global provider.
        peers: tell gauges apart by the addresses of peers, up to `MAX_METRIC_PEERS` of them; without, the worst one is
            told.

    Returns:
        A function that ends it, on any thread: call it when you are done with a client, which is kept otherwise.

    Raises:
        ConfigurationError: `source` is neither a server nor a client.
        LocalProtocolError: called on another thread than that of the event loop that `source` runs on.
    """
    if not isinstance(source, RpcServer | RpcClient):  # pyright: ignore[reportUnnecessaryIsInstance] - sessions come here
        raise ConfigurationError("source", f"{source!r} is neither an RpcServer nor an RpcClient")
    if _is_elsewhere(source.ledger):
        raise LocalProtocolError("call observe_quality on the thread of the event loop that the source runs on")
    chosen = meter or _default_meter()
    with _changing:
        if chosen not in _boards:
            _boards[chosen] = _Board(chosen)
        role = "server" if isinstance(source, RpcServer) else "client"
        return _boards[chosen].add(role, source.ledger, peers=peers)


@cache
def _default_meter() -> Meter:
    """Return the same one always: the global provider may be chosen later."""
    return get_meter("echostream", VERSION)


class _Source:
    """One server or client that is observed through one meter."""

    def __init__(self, role: str, ledger: QualityLedger, apart: Callable[[Attributes, str], Attributes]) -> None:
        self.ledger = ledger
        self.release = ledger.hold()
        self._role = role
        self._apart = apart
        for _ in ledger.look():
            pass  # others may observe it already: what grew since they looked is not of this one
        self._begun = ledger.totals()

    def counts(self) -> Figures:
        """Return what was counted since the beginning, as of the last look; on any thread."""
        (begun, begun_of_sessions), (streams, of_sessions) = self._begun, self.ledger.totals()
        since = {name: _minus(counts, begun.get(name, NOTHING)) for name, counts in streams.items()}
        return read_counts(self._role, since, _minus(of_sessions, begun_of_sessions))

    def look(self) -> Future[Figures]:
        """Look at all that is open, where it lives: at once where that is here, or where nothing is running."""
        seen: Future[Figures] = Future()
        loop, steps = self.ledger.loop, read_levels(self._role, self.ledger, self._apart)
        if loop is None or not loop.is_running():
            seen.set_result({})
        elif _is_here(loop):
            while not seen.done():
                _step(steps, seen)
        else:
            _call(loop, partial(_walk, loop, steps, seen), partial(seen.set_result, {}))
        return seen


class _Board:
    """The instruments of one meter, and what they tell of."""

    def __init__(self, meter: Meter) -> None:
        self._observed: tuple[tuple[_Source, ...], Figures] = (), {}  # and the counts of what no longer is; one value,
        self._apart: set[Attributes] = set()  # so that who reads it on another thread sees both of one moment
        self._figures: Figures = {}
        self._read_at = -_FRESH
        self._asked: set[Metric] = set()
        for metric in METRICS:
            create = getattr(meter, f"create_observable_{metric.kind}")
            create(metric.name, [partial(self._observe, metric)], metric.unit, metric.description)

    def add(self, role: str, ledger: QualityLedger, *, peers: bool) -> Callable[[], None]:
        """Tell of a server or client from now on; the function that comes back ends it."""
        source = _Source(role, ledger, self._with_peer if peers else _without_peer)
        sources, retired = self._observed
        self._observed = (*sources, source), retired
        return partial(self._remove, source)

    def _remove(self, source: _Source) -> None:
        loop = source.ledger.loop
        if loop is not None and _is_elsewhere(source.ledger):
            _call(loop, partial(self._forget, source), partial(self._forget, source))
        else:
            self._forget(source)

    def _forget(self, source: _Source) -> None:
        with _changing:
            sources, retired = self._observed
            if source in sources:
                source.look()  # for the last time
                kept: Figures = {}
                _merge(kept, retired)
                _merge(kept, source.counts())
                self._observed = tuple(each for each in sources if each is not source), kept
                source.release()

    def _with_peer(self, attributes: Attributes, host: str) -> Attributes:
        told = (*attributes, (PEER, host))
        if told not in self._apart:
            if len(self._apart) >= MAX_METRIC_PEERS:
                return (*attributes, (PEER, OTHER))
            self._apart.add(told)
        return told

    def _observe(self, metric: Metric, options: CallbackOptions) -> Iterable[Observation]:
        now = clock.monotonic()
        if metric in self._asked or now - self._read_at >= _FRESH:  # it is the first of a new collection
            self._figures = self._read(min(METRICS_WAIT, options.timeout_millis / 1000))
            self._read_at, self._asked = now, set()
        self._asked.add(metric)
        return [Observation(value, dict(attributes)) for attributes, value in self._figures.get(metric, {}).items()]

    def _read(self, patience: float) -> Figures:
        """Return all there is to tell now; of a loop that does not answer in time only the counts of the last look."""
        sources, retired = self._observed
        figures: Figures = {}
        if sources:
            looks = [source.look() for source in sources]
            wait(looks, timeout=patience)
            _merge(figures, retired)
            for source, look in zip(sources, looks, strict=True):
                _merge(figures, source.counts())
                if look.done():
                    _merge(figures, look.result())
        return figures


_boards: Final[WeakKeyDictionary[Meter, _Board]] = WeakKeyDictionary()
_changing: Final = Lock()
"""Held while what is observed changes, never while anybody waits for a loop."""


def _without_peer(attributes: Attributes, _host: str) -> Attributes:
    return attributes


def _merge(into: Figures, figures: Figures) -> None:
    for metric, series in figures.items():
        for attributes, value in series.items():
            put(into, metric, attributes, value)


def _minus(counts: tuple[int, ...], begun: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(count - before for count, before in zip(counts, begun, strict=True))


def _is_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is the thread of a loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _is_elsewhere(ledger: QualityLedger) -> bool:
    """Whether what a ledger tells of lives on another thread."""
    return ledger.loop is not None and ledger.loop.is_running() and not _is_here(ledger.loop)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Call a function on the thread of a loop soon; the other one here, where the loop was closed meanwhile."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        otherwise()


def _step(steps: Generator[None, None, Figures], seen: Future[Figures]) -> None:
    try:
        next(steps)
    except StopIteration as end:
        seen.set_result(end.value)
    except Exception as error:  # noqa: BLE001 - the collector reports it
        seen.set_exception(error)


def _walk(loop: asyncio.AbstractEventLoop, steps: Generator[None, None, Figures], seen: Future[Figures]) -> None:
    """Take one step in each turn of a loop."""
    _step(steps, seen)
    if not seen.done():
        loop.call_soon(_walk, loop, steps, seen)
