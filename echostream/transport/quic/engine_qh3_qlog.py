"""What qh3 does, as qlog: what its Python part says itself, and what can be seen of its native part."""

from __future__ import annotations

from qh3.quic.connection import QuicConnection
from qh3.quic.logger import QuicLoggerTrace

from echostream.transport.quic.diagnostics import QlogFile

__all__ = ("Qh3Trace", "log_sent", "trace")


class Qh3Trace(QlogFile, QuicLoggerTrace):
    """qh3's words for its events, written to a file."""


# The private attributes of qh3, one function each.
# pyright: reportPrivateUsage=false


def trace(quic: QuicConnection) -> QlogFile | None:
    """Return what the connection's events go to."""
    return quic._quic_logger  # type: ignore[return-value]  # made by `QlogDirectory.start_trace`


def log_sent(quic: QuicConnection, qlog: QlogFile, packets: list[bytes]) -> None:
    """Do what `datagrams_to_send` would, with what else can be seen of numbers and congestion."""
    if quic._core is None:
        return
    outstanding = iter(quic._core.outstanding_application_packets[-len(packets) :] if packets else ())
    number, size, *_ = next(outstanding, (0, 0))
    for data in packets:
        quic._log_datagram("datagrams_sent", data)
        if data[0] & 0x80:
            quic._log_packets("packet_sent", data)
            continue
        header: dict[str, object] = {"packet_type": "1RTT"}
        if size == len(data):  # an acknowledgement alone is not outstanding
            header["packet_number"] = number
            number, size, *_ = next(outstanding, (0, 0))
        data_sent = {"header": header, "raw": {"length": len(data)}, "frames": []}
        qlog.log_event(category="transport", event="packet_sent", data=data_sent)
    metrics: dict[str, float] = {
        "bytes_in_flight": quic._core.bytes_in_flight,
        "cwnd": quic._core.congestion_window,
        "pto_count": quic._core.pto_count,
    }
    if quic._core.smoothed_rtt is not None and quic._core.latest_rtt is not None:
        metrics |= {"smoothed_rtt": quic._core.smoothed_rtt * 1000, "latest_rtt": quic._core.latest_rtt * 1000}
    qlog.log_event(category="recovery", event="metrics_updated", data=metrics)
