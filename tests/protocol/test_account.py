"""Memory that connections share."""

from __future__ import annotations

from echostream.protocol.account import Account


def test_a_share_is_full_above_its_own_limit() -> None:
    account = Account(1000)
    share = account.open(100)
    assert not share.add(100)
    assert not share.full
    assert share.add(1)
    assert share.full
    share.add(-1)
    assert not share.full
    assert (share.held, account.held) == (100, 100)


def test_above_the_common_limit_those_give_way_that_hold_more_than_an_equal_part() -> None:
    account = Account(90)
    hoarder, modest, idle = (account.open(1000) for _ in range(3))
    hoarder.add(80)
    modest.add(10)
    assert not hoarder.full
    modest.add(5)
    assert (hoarder.full, modest.full, idle.full) == (True, False, False)
    assert modest.crowded(31)
    modest.add(20)  # an equal part is 30
    assert modest.full
    hoarder.close()
    assert not modest.full


def test_a_closed_share_gives_all_back_and_counts_no_more() -> None:
    account = Account(10)
    share = account.open(10)
    share.add(7)
    assert repr(account) == "<Account 7 of 10 bytes, 1 shares>"
    for _ in range(2):
        share.close()
        assert not share.add(50)
    assert (share.held, account.held, account.shares) == (0, 0, 0)
