"""A mistake is told in one line, whatever it is about."""

import pytest

from engine.core.errors import UserError


@pytest.mark.parametrize("received", ["a\nb", "\x1b[2J", "\ud800", "\u2028", "\0", "\r"])
def test_what_a_terminal_would_obey_is_escaped(received):
    message = str(UserError(f"{received}; allowed: ä, 1 × 2"))
    assert message.isprintable()
    assert message.endswith("; allowed: ä, 1 × 2")


def test_a_long_message_keeps_its_ends():
    message = str(UserError("--seed=" + "\n9" * 10**6 + "; allowed: 0 or more"))
    assert len(message) < 2001
    assert message.startswith("--seed=\\n9")
    assert message.endswith("9; allowed: 0 or more")
