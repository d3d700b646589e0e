"""Credit: a slow reader bounds a fast writer, and never starves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.errors import CloseCode, LocalProtocolError, RemoteProtocolError
from echostream.protocol.account import Account
from echostream.protocol.flow import ITEM_COST_BYTES, ReceiveCredit, SendCredit
from tests.protocol.strategies import deterministic


def test_an_item_may_start_while_one_byte_of_credit_is_left() -> None:
    credit = SendCredit(100)
    credit.spend(99 - ITEM_COST_BYTES)
    assert (credit.sent, credit.available) == (99, True)
    credit.spend(1000)
    assert (credit.sent, credit.available) == (99 + 1016, False)


def test_an_item_without_credit_fails_here_and_costs_nothing() -> None:
    credit = SendCredit(16)
    credit.spend(0)
    with pytest.raises(LocalProtocolError) as caught:
        credit.spend(0)
    assert caught.value.message == "no credit for an item: 16 bytes sent, 16 granted"
    assert credit.sent == 16


def test_only_a_higher_total_counts() -> None:
    credit = SendCredit(100)
    assert [credit.raise_to(total) for total in (100, 99, 0, 101, 101, (1 << 64) - 1)] == [
        False, False, False, True, False, True,
    ]  # fmt: skip
    assert credit.granted == (1 << 64) - 1


def test_an_item_that_starts_without_credit_is_refused() -> None:
    credit = ReceiveCredit(100)
    credit.receive(99 - ITEM_COST_BYTES)
    credit.receive(5000)
    with pytest.raises(RemoteProtocolError) as caught:
        credit.receive(0)
    assert caught.value.message == "item sent without credit: 5115 bytes came, 100 were granted"
    assert caught.value.close_code is CloseCode.LIMIT_EXCEEDED


def test_credit_is_granted_when_half_a_window_was_taken() -> None:
    credit = ReceiveCredit(1000)
    assert credit.consume(499 - ITEM_COST_BYTES) is None
    assert credit.consume(1) == 1000 + 499 + 17
    assert credit.consume(400) is None
    assert (credit.granted, credit.consumed) == (1516, 516 + 416)


def test_a_first_grant_may_differ_from_the_window() -> None:
    credit = ReceiveCredit(1000, granted=0)
    with pytest.raises(RemoteProtocolError, match="0 bytes came, 0 were granted"):
        credit.receive(1)


@deterministic
@given(st.integers(1024, 4096), st.lists(st.integers(0, 6000), min_size=1, max_size=40), st.integers(1, 5))
def test_a_writer_whose_items_are_taken_never_starves_nor_floods(window: int, sizes: list[int], at_once: int) -> None:
    sender, receiver, waiting = SendCredit(window), ReceiveCredit(window), list[int]()
    for size in sizes:
        while not sender.available:
            assert waiting, "starved: everything was taken, and still no credit"
            for _ in range(min(at_once, len(waiting))):
                total = receiver.consume(waiting.pop(0))
                if total is not None:
                    assert sender.raise_to(total)
        sender.spend(size)
        receiver.receive(size)
        waiting.append(size)
        assert sum(waiting[:-1]) < window, "more than a window and one item"
    assert sender.sent == receiver.received


def test_what_is_released_counts_no_more() -> None:
    share = Account(1000).open(1000)
    credit = ReceiveCredit(1000, held=share)
    assert not credit.receive(84)
    assert share.held == 100
    for _ in range(2):
        credit.release()
        assert share.held == 0
    assert credit.consume(84) is None
    assert share.held == 0
