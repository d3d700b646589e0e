"""The numbers of the byte layout that encoding and decoding share; docs/protocol.md is the specification."""

from __future__ import annotations

from struct import Struct
from typing import Final

from echostream.protocol.frames import Flag

__all__ = (
    "ACCEPTS", "ACK", "ACK_FIELDS", "DATAGRAM", "DATAGRAM_ITEM", "HEADER", "HEADER_BYTES", "I64", "INITIAL",
    "LENGTH_BYTES", "METADATA", "NAMED", "RAW", "REQUEST", "REQUEST_BYTES", "REQUEST_FIELDS", "RESPONSE",
    "RESPONSE_BYTES", "SENDS", "SHORTEST", "TIMED", "TIMES", "U16", "U32", "U64",
)  # fmt: skip

HEADER: Final = Struct(">IBBQ")
REQUEST: Final = Struct(">IBBQQH")
RESPONSE: Final = Struct(">IBBQB")
NAMED: Final = Struct(">IBBQH")
U16: Final = Struct(">H")
U32: Final = Struct(">I")
U64: Final = Struct(">Q")
I64: Final = Struct(">q")
DATAGRAM_ITEM: Final = Struct(">IBBQIHH")
ACK_FIELDS: Final = Struct(">II")
TIMES: Final = Struct(">qqq")
REQUEST_FIELDS: Final = Struct(">QH")

HEADER_BYTES: Final = HEADER.size
"""Length field, kind, flags and id: the price of the smallest frame."""
LENGTH_BYTES: Final = U32.size
SHORTEST: Final = HEADER_BYTES - LENGTH_BYTES
"""The least that a length field may say."""

REQUEST_BYTES: Final = REQUEST.size - LENGTH_BYTES
"""What the length field of a Request says of all before its name, sections and payload."""
RESPONSE_BYTES: Final = RESPONSE.size - LENGTH_BYTES
"""What the length field of a Response says of all before its sections and payload."""

# Flags as plain numbers: those of an enum are combined in Python code.
METADATA: Final = int(Flag.METADATA)
INITIAL: Final = int(Flag.INITIAL)
RAW: Final = int(Flag.RAW)
ACK: Final = int(Flag.ACK)
SENDS: Final = int(Flag.SENDS_ITEMS)
ACCEPTS: Final = int(Flag.ACCEPTS_ITEMS)
TIMED: Final = int(Flag.TIMED)
DATAGRAM: Final = int(Flag.DATAGRAM)
