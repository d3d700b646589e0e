"""QUIC: the transport for everyday use."""

from echostream.transport.quic.transport import QuicListener, QuicTransport

__all__ = ("QuicListener", "QuicTransport")
