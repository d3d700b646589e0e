"""Bytes on their way down: gathered per stream, in order, until they are taken."""

from __future__ import annotations

from echostream.protocol.outbox import Outbox


def test_frames_of_one_stream_are_joined_in_order() -> None:
    out = Outbox()
    out.write(4, b"a")
    out.write(0, b"b")
    out.write(4, b"c", fin=True)
    assert (out.frames, out.size, out.pending) == (3, 3, True)
    assert out.take_writes() == [(0, b"b", False), (4, b"ac", True)]
    assert (out.frames, out.size, out.pending) == (0, 0, False)
    assert out.take_writes() == []


def test_an_end_alone_is_a_write() -> None:
    out = Outbox()
    out.write(4, b"", fin=True)
    assert out.take_writes() == [(4, b"", True)]
    out.write(4, b"next")
    assert out.take_writes() == [(4, b"next", False)], "the end belongs to the writes that it came with"


def test_a_reset_takes_back_what_was_not_taken_and_its_end() -> None:
    out = Outbox()
    out.write(4, b"a", fin=True)
    out.write(8, b"b")
    out.abort(4, reset=True, stop=True, code=1)
    assert out.take_writes() == [(8, b"b", False)]
    assert out.pending
    assert out.take_aborts() == [(4, True, True, 1)]
    assert (out.pending, out.take_aborts()) == (False, [])


def test_a_stop_leaves_what_is_to_be_sent() -> None:
    out = Outbox()
    out.write(4, b"a", fin=True)
    out.abort(4, reset=False, stop=True, code=8)
    assert out.take_writes() == [(4, b"a", True)]
    assert out.take_aborts() == [(4, False, True, 8)]


def test_a_reset_of_a_stream_without_writes_is_kept() -> None:
    out = Outbox()
    out.abort(4, reset=True, stop=False, code=0)
    assert (out.take_writes(), out.take_aborts()) == ([], [(4, True, False, 0)])
