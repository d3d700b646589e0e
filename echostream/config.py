"""Every default and every limit, each with its unit and its reason.

Frozen dataclasses that check their bounds when they are made, and the check of durations that are given elsewhere. Code
elsewhere holds no numbers of its own.
Durations are float seconds, sizes are bytes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from echostream.errors import ConfigurationError

__all__ = (
    "ALPN",
    "CLOCK_REST",
    "DEFAULT_CALL_TIMEOUT",
    "DEFAULT_CONNECT_TIMEOUT",
    "DEFAULT_DISCOVER_TIMEOUT",
    "DEFAULT_FRAME",
    "DEFAULT_LOCK_TIMEOUT",
    "DEFAULT_STOP_GRACE",
    "DEFAULT_STREAM_CLOSE_TIMEOUT",
    "LOST_CALL_GRACE",
    "MAX_CERTIFICATE_CHAIN",
    "MAX_DISCOVERED_SERVICES",
    "MAX_EARLY_BYTES",
    "MAX_ERROR_HOOKS",
    "MAX_METRIC_PEERS",
    "MAX_METRIC_STREAMS",
    "MAX_QLOG_BYTES",
    "MAX_RATE_LIMIT_KEYS",
    "MAX_RETRY_ATTEMPTS",
    "MAX_TXT_BYTES",
    "MAX_WORKERS",
    "METRICS_WAIT",
    "PROBE_TIMEOUT",
    "PROTOCOL_VERSION",
    "RESOURCE_CLOSE_TIMEOUT",
    "STAMPS_REST",
    "Limits",
    "QuicSettings",
    "RetrySettings",
    "checked_seconds",
)

ALPN = "echostream/1"
"""ALPN token; the number changes only with an incompatible wire format."""

PROTOCOL_VERSION = 1
"""Version in the Hello frame."""

DEFAULT_CALL_TIMEOUT = 10.0
"""Seconds for a call when nothing else is said: long enough for a slow handler, short enough to notice a dead one."""

DEFAULT_CONNECT_TIMEOUT = 10.0
"""Seconds for address, handshake and Hello together."""

DEFAULT_LOCK_TIMEOUT = 10.0
"""Seconds to wait for a clock to lock: it takes 40 ms and a round trip, and longer only where most probes are lost."""

CLOCK_REST = 30.0
"""Seconds after the last reading until a clock sends no more probes: who reads it now and then, reads a good one."""

PROBE_TIMEOUT = 5.0
"""Seconds after which a probe counts as lost: ten times the worst round trip of a bad Wi-Fi."""

STAMPS_REST = 10.0
"""Seconds after the last burst of probes until the kernel stamps packets no more: five pauses between bursts."""

DEFAULT_DISCOVER_TIMEOUT = 3.0
"""Seconds to listen for mDNS answers: three queries of RFC 6762 section 5.2 fit in it."""

DISCOVER_SETTLE = 0.3
"""Seconds to wait for other servers once one answered, where one is to be chosen: answers come within 20 to 120 ms
(RFC 6762 section 6), and a little more on Wi-Fi."""

DEFAULT_STREAM_CLOSE_TIMEOUT = 10.0
"""Seconds that leaving a stream's block waits until the other side is through with what was sent; as for a call."""

DEFAULT_FRAME = 0.02
"""Seconds from one item of a timed stream to the next where nothing is said: the usual frame of Opus (RFC 6716)."""

DEFAULT_STOP_GRACE = 15.0
"""Seconds that `stop()` waits for running calls: under the 30 s most supervisors give before they kill."""

MAX_WORKERS = 64
"""Processes of ``serve --workers``: one byte of a connection id names them, and more spread clients unevenly."""

LOST_CALL_GRACE = 1.0
"""Seconds that the middleware of a call may go on after its connection ended: to log it, not to wait for anything."""

MAX_ERROR_HOOKS = 1000
"""Hooks for errors that run at once: a handler that fails at every call must not fill the memory with slow reports."""

RESOURCE_CLOSE_TIMEOUT = 5.0
"""Seconds that the clean-up of one dependency of a session or a server may take: well under `DEFAULT_STOP_GRACE`."""

MAX_CERTIFICATE_CHAIN = 10
"""Certificates that a peer may send: public chains have 2 to 4, and the work to check one grows with their number."""

MAX_DISCOVERED_SERVICES = 256
"""Services that one browser remembers: far above a real network, and a flood of made-up ones ends here."""

MAX_QLOG_BYTES = 100 << 20
"""Bytes of the qlog of one connection: half a million packets; one that lasts for days must not fill the disk."""

MAX_EARLY_BYTES = 8 << 10
"""Bytes of Hello and calls that a client sends before a handshake is done: they fit the first congestion window
(RFC 9002 section 7.2) together with the handshake, and the least flow-control window of any server."""
MAX_RATE_LIMIT_KEYS = 65_536
"""Token buckets that one `RateLimit` keeps: as many as a listener has connections. The longest unused one, which has
filled up most, gives way."""

MAX_RETRY_ATTEMPTS = 5
"""Attempts of one call at the most, the first included: what gRFC A6 allows."""

MAX_METRIC_STREAMS = 100
"""Names of streams that the metrics of one server or client tell apart: ten metrics of them, some in two directions and
for several reasons, stay below the 2,000 sets of attributes that OpenTelemetry keeps of each."""

MAX_METRIC_PEERS = 1000
"""Addresses of peers, with or without the name of a stream, that the metrics of a program tell apart: half of what
OpenTelemetry keeps, so that a server of the public does not fill it."""

METRICS_WAIT = 0.25
"""Seconds that a collector of metrics on another thread waits for the event loop: one that answers later is read the
next time, and one that itself waits for a lock of the collector's goes on after this."""

MAX_TXT_BYTES = 1300
"""Bytes of one service's TXT record: RFC 6763 section 6.2 asks for it, so that an answer fits one packet."""


def _bounded(default: float, low: float, high: float) -> float:
    """A dataclass field whose value must lie in [low, high]."""
    value: float = field(default=default, metadata={"low": low, "high": high})
    return value


class _Checked:
    """Checks the bounds that `_bounded` noted."""

    def __post_init__(self) -> None:
        for name, kind, low, high in _bounds(self.__class__):
            value: Any = getattr(self, name)
            if type(value) is not kind or not low <= value <= high:
                _check(name, kind, value, low, high)


_known_bounds: dict[type, tuple[tuple[str, type[Any], float, float], ...]] = {}


def _bounds(settings: type) -> tuple[tuple[str, type[Any], float, float], ...]:
    """Return (name, type, least, most) of each field that has bounds; kept, for every client makes such objects."""
    if settings not in _known_bounds:
        _known_bounds[settings] = tuple(
            (item.name, type(item.default), item.metadata["low"], item.metadata["high"])
            for item in dataclasses.fields(settings)
            if "low" in item.metadata
        )
    return _known_bounds[settings]


def _check(name: str, kind: type[Any], value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(name, f"expected a number, got {value!r}")
    if kind is int and not isinstance(value, int):
        raise ConfigurationError(name, f"expected a whole number, got {value!r}")
    if not low <= value <= high:
        raise ConfigurationError(name, f"{value} is out of range, expected {low} to {high}")


def _int(default: int, low: int, high: int) -> int:
    value: int = field(default=default, metadata={"low": low, "high": high})
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(_Checked):
    """What one session may cost. Both sides have their own; the Hello frame tells the peer the ones it must keep."""

    max_payload_bytes: int = _int(4 << 20, 1 << 10, 1 << 30)
    """Largest payload of one frame. 4 MiB is what gRPC users are used to."""
    max_metadata_bytes: int = _int(8 << 10, 0, 1 << 20)
    """Largest encoded metadata of one frame: gRPC's soft limit for headers."""
    max_payload_elements: int = _int(100_000, 1, 1 << 28)
    """Elements in one payload, counted before unpacking: 1 MB of packed empty maps becomes 73 MB of objects."""
    max_payload_depth: int = _int(32, 1, 512)
    """Nesting of one payload: far above real documents, far below the interpreter's stack."""
    max_concurrent_calls: int = _int(1024, 1, 1 << 20)
    """Calls in flight that the peer may have with this side; above it the caller waits on its own side."""
    max_waiting_calls: int = _int(16_384, 0, 1 << 24)
    """Calls of this side that wait for a free place; above it they fail with RESOURCE_EXHAUSTED."""
    max_streams: int = _int(1024, 1, 1 << 20)
    """Application streams open at once, opened by the peer."""
    max_reassembly_bytes: int = _int(16 << 20, 1 << 16, 1 << 32)
    """Bytes of unfinished frames held for one session, over all its streams."""
    max_held_bytes: int = _int(256 << 20, 1 << 16, 1 << 40)
    """Bytes that one session may have this side hold: unfinished frames, items that nobody reads, events that wait for
    listeners, large arguments of calls that run, large results that wait. Room for 64 payloads of the largest size."""
    max_total_held_bytes: int = _int(1 << 30, 1 << 16, 1 << 44)
    """The same for all sessions of a server or client together; above it those give way that hold more than an equal
    part of it."""
    max_unauthenticated_bytes: int = _int(64 << 10, 1 << 10, 1 << 20)
    """Bytes taken from a peer before its Hello was accepted."""
    hello_timeout: float = _bounded(10.0, 0.05, 600.0)
    """Seconds a peer has for its Hello, and then `authenticate` for its answer."""
    call_window_bytes: int = _int(256 << 10, 1 << 10, 1 << 30)
    """Credit of one direction of a streaming call: two to three round trips of a fast local network."""
    stream_window_bytes: int = _int(1 << 20, 1 << 10, 1 << 30)
    """Credit of one direction of an application stream: 1 MiB keeps 400 MB/s busy at 2 ms."""
    max_queued_items: int = _int(256, 1, 1 << 20)
    """Items that wait on a stream which drops some: to be sent, and as many to be read. 2.5 s of sound in 10 ms each,
    and the datagrams that a QUIC connection queues (`QuicSettings.max_queued_datagrams`)."""
    max_queued_item_bytes: int = _int(1 << 20, 1 << 10, 1 << 30)
    """Their bytes, each way: as much as a reliable stream has under way (`stream_window_bytes`)."""
    item_max_age: float = _bounded(0.2, 0.001, 3600.0)
    """Seconds that an item may wait to be sent in datagrams: above the playout delay of a bad Wi-Fi (120 ms), after
    which a receiver has given it up. Counted as dropped then."""
    credit_timeout: float = _bounded(300.0, 0.05, 1e9)
    """Seconds without credit after which a call or a stream with items to send ends: its reader has stopped. Long
    enough for one that only rests."""
    max_queued_events: int = _int(1024, 1, 1 << 20)
    """Events that wait for listeners in one session; the oldest plain one is dropped above it."""
    max_unacknowledged_events: int = _int(256, 1, 1 << 20)
    """Acknowledged events under way from one side; `emit(ack=True)` waits above it."""
    heartbeat_interval: float = _bounded(15.0, 0.0, 3600.0)
    """Seconds between the probes of a quiet client, which a server asks for; 0 for none. As often as the PINGs of QUIC
    (`QuicSettings.keepalive_interval`), whose place they take."""
    max_probes_per_second: int = _int(200, 8, 1 << 16)
    """TimeSync probes in datagrams that are answered, for one session; those above it are not. A client that reads its
    clock sends 4 in a second, and at the beginning 32."""
    high_watermark_bytes: int = _int(256 << 10, 1 << 10, 1 << 30)
    """Unsent bytes of one transport stream above which its writers wait."""
    low_watermark_bytes: int = _int(64 << 10, 0, 1 << 30)
    """Unsent bytes of one transport stream below which they go on."""
    max_unsent_bytes: int = _int(8 << 20, 1 << 16, 1 << 40)
    """Unsent bytes of one connection above which all its writers wait, until half is left: room for 32 streams at their
    watermark. At twice as much, which only what cannot wait can reach, the connection is ended."""
    max_total_unsent_bytes: int = _int(256 << 20, 1 << 16, 1 << 44)
    """Unsent bytes of all connections of a server or client together; above it writers wait on those connections that
    have more than an equal part of it. An eighth of a small machine of 2 GiB."""
    stall_timeout: float = _bounded(60.0, 0.05, 3600.0)
    """Seconds after which a peer is given up that takes nothing of what waits for it, or acknowledges nothing, although
    it is still there: as long as one that is not there has (`QuicSettings.idle_timeout`)."""
    large_payload_bytes: int = _int(32 << 10, 1 << 10, 1 << 30)
    """Payloads above this size travel on a stream of their own, so that small calls do not stand behind them."""
    lanes: int = _int(4, 1, 64)
    """Transport streams that calls of one side share, so that a call of about a packet does not wait for the lost
    packet of another. On qh3 four take a quarter off the median of 1,000 bytes where 3 % are lost; with eight and more
    the slowest calls are slower than on one, on both engines."""
    lane_payload_bytes: int = _int(512, 0, 1 << 30)
    """Arguments from this size on take turns over the lanes; smaller calls stay together on the first: many of them
    share a packet whatever their stream, so that lanes spare them nothing and cost them 16 to 25 % of their time."""
    max_large_bytes: int = _int(512 << 10, 1 << 16, 1 << 32)
    """Large payloads being written at once, together; one larger than this goes alone. The peer holds unfinished ones
    in memory, and aioquic looks at every stream that is being written for each packet: 512 KiB is 1.4 times as fast
    as 4 MiB where many payloads of 300 KB wait."""
    copy_share: float = _bounded(0.25, 0.0, 1.0)
    """Bytes of second copies to bytes sent, while packets are lost: small flights leave again, before the engine knows
    what was lost, unless more waits behind them. With 0.25 the slowest call of a hundred takes two thirds of its time,
    and the bytes are less than 1.3 times those of TCP with TLS; with 1, which sends all that is small twice, still
    less than those of gRPC."""
    early_push_frames: int = _int(32, 1, 1 << 16)
    """Frames after which what is queued is sent at once, in the middle of a burst: without it two programs take turns,
    each half idle; below 16 the many small packets cost more than they gain."""
    max_threads: int = _int(32, 1, 4096)
    """Threads for `@handler(thread=True)`."""

    def __post_init__(self) -> None:
        _Checked.__post_init__(self)
        if self.low_watermark_bytes >= self.high_watermark_bytes:
            raise ConfigurationError(
                "low_watermark_bytes",
                f"{self.low_watermark_bytes} must be below high_watermark_bytes ({self.high_watermark_bytes})",
            )
        if self.max_unsent_bytes < self.high_watermark_bytes:
            raise ConfigurationError(
                "max_unsent_bytes",
                f"{self.max_unsent_bytes} is below high_watermark_bytes ({self.high_watermark_bytes}) of one stream",
            )
        if self.max_reassembly_bytes < self.max_payload_bytes:
            raise ConfigurationError(
                "max_reassembly_bytes",
                f"{self.max_reassembly_bytes} cannot hold one payload of max_payload_bytes ({self.max_payload_bytes})",
            )
        if self.max_held_bytes < self.max_reassembly_bytes:
            raise ConfigurationError(
                "max_held_bytes",
                f"{self.max_held_bytes} is below max_reassembly_bytes ({self.max_reassembly_bytes}), which count in it",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicSettings(_Checked):
    """The QUIC endpoint. RFC 9000 names."""

    idle_timeout: float = _bounded(60.0, 1.0, 3600.0)
    """Seconds without any packet after which a connection is gone (RFC 9000 section 10.1)."""
    keepalive_interval: float = _bounded(15.0, 0.5, 600.0)
    """Seconds between PINGs of a quiet client: four of them fit in the idle timeout."""
    handshake_timeout: float = _bounded(10.0, 0.5, 120.0)
    """Seconds that a handshake may take; as a client, what `connect` was given if that is more."""
    max_handshakes: int = _int(1024, 1, 1 << 20)
    """Half-open handshakes on one listener; further Initials are dropped and the client tries again."""
    max_handshakes_per_address: int = _int(512, 1, 1 << 20)
    """Half-open handshakes of one IPv4 address or one IPv6 /64: half of all, so that nobody takes them alone."""
    retry_above_handshakes: int = _int(256, 0, 1 << 20)
    """Half-open handshakes above which unknown addresses must answer a Retry (RFC 9000 section 8.1.2)."""
    retry_above_rate: int = _int(64, 1, 1 << 20)
    """First packets a second above which they must as well: a handshake costs 80 times as much as a Retry."""
    max_retries_per_second: int = _int(2000, 16, 1 << 20)
    """Retries and version negotiations: several times the handshakes that one process can do; above it clients wait."""
    max_resets_per_second: int = _int(1000, 0, 1 << 20)
    """Stateless resets that tell peers of a former process to begin anew (RFC 9000 section 10.3); 0 for none."""
    max_connections: int = _int(65_536, 1, 1 << 24)
    """Connections of one listener."""
    max_connections_per_address: int = _int(8192, 1, 1 << 24)
    """Connections of one IPv4 address or one IPv6 /64: a company, or a provider's customers, may share one (NAT)."""
    max_datagram_bytes: int = _int(1452, 1200, 65_000)
    """UDP payload that is sent: 1452 fits Ethernet under IPv6; larger where the path is known to carry it."""
    local_datagram_bytes: int = _int(8952, 1200, 65_000)
    """The same to a peer on the same machine, if larger: the loopback interface carries 65,535, and as much as of an
    Ethernet with jumbo frames makes bulk four times as fast with aioquic, twice with qh3."""
    key_update_packets: int = _int(1 << 22, 1 << 16, 1 << 23)
    """Packets sent after which a connection takes new keys: half of what AES-GCM may protect with one (RFC 9001 section
    6.6); never so few that a second update could overtake the first."""
    connection_window_bytes: int = _int(16 << 20, 1 << 16, 1 << 32)
    """Flow-control window of a connection (MAX_DATA)."""
    stream_window_bytes: int = _int(4 << 20, 1 << 14, 1 << 32)
    """Flow-control window of a stream (MAX_STREAM_DATA)."""
    max_streams: int = _int(2048, 16, 1 << 20)
    """Streams of each kind that the peer may have open: its calls with large payloads and its application streams."""
    max_queued_datagrams: int = _int(256, 1, 1 << 16)
    """Unreliable datagrams that wait for the congestion window; above it they are refused, as late ones are useless."""
    max_pending_packets: int = _int(1024, 64, 1 << 20)
    """UDP packets that wait for room in the kernel; connections send no more while any waits, so few ever do."""
    address_timeout: float = _bounded(2.0, 0.05, 60.0)
    """Seconds that a dial waits for a packet from one of several addresses of a host before it tries the next."""
    ticket_lifetime: float = _bounded(3600.0, 1.0, 604_800.0)
    """Seconds that a session ticket is good for. A resumed handshake shows no certificate: one that was withdrawn is
    missed after an hour at the latest. RFC 8446 section 4.6.1 allows seven days."""
    max_tickets_per_server: int = _int(4, 0, 1024)
    """Tickets that a client keeps of one server, one for each connection at once; 0 for none."""
    max_ticket_servers: int = _int(64, 1, 1 << 20)
    """Servers of which a client keeps tickets; that of the oldest go above it."""
    max_server_tickets: int = _int(4096, 0, 1 << 20)
    """Tickets that a listener remembers, some 2 KB each; the oldest go above it, and their clients do a full handshake.
    0 for none: every handshake is a full one."""
    copy_flight_packets: int = _int(2, 1, 64)
    """Packets of a flight that may leave a second time (`Limits.copy_share`): of a larger one the later packets show
    the engine at once what was lost, and copies cost more than they gain."""
    copy_after_loss_packets: int = _int(1000, 1, 1 << 20)
    """Packets sent after a loss for which it counts: copies hide losses, and the next one that shows costs the calls of
    a flight or two, which one in a thousand packets can."""
    copy_burst_bytes: int = _int(16 << 10, 1 << 10, 1 << 24)
    """Bytes of copies that may leave at once, saved up before: of five flights of two packets."""
    receive_burst: int = _int(64, 1, 1024)
    """Datagrams read at one wake-up before others get their turn: one acknowledgement answers a burst."""
    socket_buffer_bytes: int = _int(4 << 20, 1 << 16, 1 << 30)
    """Asked of the kernel for each direction (it may give less)."""
    close_timeout: float = _bounded(2.0, 0.05, 60.0)
    """Seconds that an orderly close may take until the link is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings(_Checked):
    """When and how a call is tried again. Names and meaning of gRFC A6."""

    max_attempts: int = _int(4, 2, MAX_RETRY_ATTEMPTS)
    """Attempts of one call, the first included: three retries bridge a restart without adding much load."""
    initial_backoff: float = _bounded(0.1, 0.001, 60.0)
    """Seconds before the first retry, times 0.8 to 1.2."""
    max_backoff: float = _bounded(1.0, 0.001, 600.0)
    """Seconds before any retry: callers wait, and their deadlines run."""
    backoff_multiplier: float = _bounded(2.0, 1.0, 100.0)
    """Each wait is that many times the one before."""
    max_tokens: int = _int(10, 1, 1000)
    """Tokens of the budget; a failed attempt takes one, and below half of them nothing is tried again."""
    token_ratio: float = _bounded(0.1, 0.001, 1000.0)
    """Tokens that a good answer gives back: one retry for ten good answers, so that retries do not drown a server."""


def checked_seconds(field: str, seconds: float, way_out: str = "") -> float:
    """Return a duration that somebody gave for the argument `field`; `way_out` is what else may be given.

    Raises:
        ConfigurationError: it is no number, not above 0, or not finite.
    """
    try:
        fits = 0 < seconds < math.inf
    except TypeError:
        raise ConfigurationError(field, f"{seconds!r} is no number of seconds") from None
    if not fits:
        raise ConfigurationError(field, f"{seconds!r} must be above 0 seconds{way_out}")
    return seconds
