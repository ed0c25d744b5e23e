import pytest

from engine.core.errors import UserError


@pytest.mark.parametrize("received", ["a\nb", "\x1b[2J", "\ud800", "\u2028", "\0", "\r"])
def test_error_message_with_control_characters_is_escaped(received):
    message = str(UserError(f"{received}; allowed: ä, 1 × 2"))
    assert message.isprintable()
    assert message.endswith("; allowed: ä, 1 × 2")


def test_long_error_message_keeps_both_ends():
    message = str(UserError("--seed=" + "\n9" * 10**6 + "; allowed: 0 or more"))
    assert len(message) < 2001
    assert message.startswith("--seed=\\n9")
    assert message.endswith("9; allowed: 0 or more")
