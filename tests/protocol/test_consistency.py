"""Whatever two correct sides do, in whatever order it arrives: nothing is lost, nothing is left."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.protocol.conversation import Conversation, talk
from tests.protocol.strategies import deterministic

Conversation.TestCase.settings = settings(deterministic, max_examples=30, stateful_step_count=40)
TestAnyLegalCommands = Conversation.TestCase


@pytest.mark.parametrize("seed", range(60))
def test_a_long_conversation_leaves_nothing(seed: int) -> None:
    talk(seed, steps=600)


@pytest.mark.slow
def test_many_long_conversations_leave_nothing() -> None:
    for seed in range(1000, 1150):
        talk(seed, steps=800)
