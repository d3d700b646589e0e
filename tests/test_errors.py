"""Tests for echostream.errors: what becomes of an error from the wire."""

from __future__ import annotations

import pytest

from echostream.errors import RpcError, Status, error_from_wire


@pytest.mark.parametrize("code", [0, 17, 99, 255])
def test_a_status_that_nobody_knows_or_that_is_no_error_becomes_unknown(code: int) -> None:
    error = error_from_wire(code, "odd", {})
    assert (type(error), error.code, error.message) == (RpcError, Status.UNKNOWN, "odd")


def test_a_known_status_is_kept_and_unknown_details_are_kept() -> None:
    error = error_from_wire(5, "no order 7", {"reason": "nobody.knows", "more": [1]})
    assert (type(error), error.code) == (RpcError, Status.NOT_FOUND)
    assert error.details == {"reason": "nobody.knows", "more": [1]}
