"""What hypothesis may try: frames of every kind, metadata, values, and settings that try the same each time."""

from __future__ import annotations

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st

from echostream.protocol import frames as f

__all__ = ("deterministic", "frames", "metadata", "values")

deterministic: Final = settings(derandomize=True, deadline=None, max_examples=100)
"""The same examples on every machine, however slow."""

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
u64 = st.integers(0, (1 << 64) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)
names = st.text(max_size=40) | st.sampled_from(["orders.place", "\0", "\U0001f600" * 50])
payloads = st.binary(max_size=60)

_keys = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12).map(str.lower)
_plain = st.dictionaries(_keys.filter(lambda key: not key.endswith("-bin")), st.text(max_size=20), max_size=4)
_binary = st.dictionaries(_keys.map(lambda key: f"{key}-bin"), st.binary(max_size=20), max_size=3)
metadata = st.builds(lambda plain, binary: {**plain, **binary} or None, _plain, _binary)
"""Proper metadata, or None."""

frames = st.one_of(
    st.builds(f.HelloFrame, u64, payloads),
    st.builds(f.RequestFrame, u64, names, payloads, u64, metadata, st.booleans(), st.booleans(), st.booleans()),
    st.builds(f.ResponseFrame, u64, u8, payloads, metadata, metadata, st.booleans()),
    st.builds(f.ItemFrame, u64, payloads, st.booleans(), metadata),
    st.builds(f.EndFrame, u64),
    st.builds(f.CancelFrame, u64, u8),
    st.builds(f.ProgressFrame, u64, payloads),
    st.builds(f.EventFrame, u64, names, payloads, metadata, st.booleans(), st.booleans()),
    st.builds(f.AckFrame, u64, u32, u32),
    st.builds(f.StreamOpenFrame, u64, names, metadata, st.booleans(), st.booleans()),
    st.builds(f.StreamItemFrame, u64, payloads, st.booleans(), st.none() | i64),
    st.builds(f.StreamEndFrame, u64, st.none() | u64),
    st.builds(
        f.DatagramItemFrame, u64, u32, payloads, u16, st.integers(1 << 16, 1 << 16), st.booleans(), st.none() | i64
    ),
    st.builds(f.StreamResetFrame, u64, u8, payloads),
    st.builds(f.CreditFrame, u64, u64),
    st.builds(f.TimeSyncFrame, u64, i64, i64, i64, st.booleans()),
    st.builds(f.GoAwayFrame, u64, u16, st.text(max_size=30)),
    st.builds(f.LaneOpenFrame, u64),
)
"""A frame of any kind, any field at its extremes."""

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""What a payload can hold."""
