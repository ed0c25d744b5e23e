"""The call syntax: what is written is read back, and a mistake is shown where it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.core.call_syntax import Call, parse_call, parse_calls
from engine.core.errors import UserError

names = some.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True).filter(
    lambda name: name.isidentifier() and name != "none"
)
texts = some.text(max_size=9).filter(lambda text: not {"'", '"'} <= set(text))
values = (
    some.none()
    | some.booleans()
    | some.integers(-(10**18), 10**18)
    | some.floats(allow_nan=False, allow_infinity=False)
    | texts
)
calls = some.builds(
    Call,
    names,
    some.lists(values, max_size=3).map(tuple),
    some.dictionaries(names, values, max_size=3),
)


def types(call: Call) -> list[type]:
    return [type(value) for value in (*call.args, *call.kwargs.values())]


def made_or_told(make, *arguments):
    """What is made of the arguments; None where one line says why nothing is."""
    try:
        return make(*arguments)
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


@given(calls)
def test_a_call_is_read_back_as_it_was_written(call):
    again = parse_call(str(call))
    assert again == call
    assert types(again) == types(call), "True is no 1, and 1.0 no 1"


@given(some.lists(calls, max_size=4).map(tuple))
def test_calls_in_a_row_are_read_back(row):
    assert parse_calls("|".join(map(str, row))) == row


odd = some.sampled_from(
    ["f(", ")", "a=", "0" * 4301, "9" * 400, "\n", "\u2028", "٣", "²", "ﬁ", "|"]
)
anything = (
    some.text(alphabet="ab(),=|'\" 1.e-+_/", max_size=20)
    | some.lists(odd | some.text(max_size=3), max_size=6).map("".join)
    | some.builds("f({})".format, odd | some.text(max_size=9))
)


@settings(deadline=None, max_examples=300)
@given(anything)
def test_any_text_gives_calls_or_one_line_for_the_user(text):
    row = made_or_told(parse_calls, text)
    assert row is None or parse_calls("|".join(map(str, row))) == row


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("flip", Call("flip")),
        (" flip ( ) ", Call("flip")),
        ("rotate(30)", Call("rotate", (30,))),
        ("f(-1, +2.5, .5, 1e-3, 2., 1E5)", Call("f", (-1, 2.5, 0.5, 1e-3, 2.0, 1e5))),
        ("f(true, false, none)", Call("f", (True, False, None))),
        ("f('true', \"it's\", '')", Call("f", ("true", "it's", ""))),
        ("f(block_16/add, mixed9, 2024-01-31, 3x, 1.2.3)",
         Call("f", ("block_16/add", "mixed9", "2024-01-31", "3x", "1.2.3"))),
        ("f(1,\n a=b , c = 'd|e(f)')", Call("f", (1,), {"a": "b", "c": "d|e(f)"})),
    ],
)  # fmt: skip
def test_what_may_be_written(text, call):
    assert parse_call(text) == call
    assert types(parse_call(text)) == types(call)


@pytest.mark.parametrize("text", ["", "  ", "none", " none "])
def test_no_calls(text):
    assert parse_calls(text) == ()


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("rotate(30", "at its end", "',' or ')'"),
        ("rotate 30", "at '30'", "'|' or the end"),
        ("rotate(30))", "at ')'", "'|' or the end"),
        ("rotate(30,)", "at ')'", "a value"),
        ("rotate()|", "at its end", "a name"),
        ("|rotate", "at '|rotate'", "a name"),
        ("3(4)", "at '3(4)'", "a name"),
        ("none|rotate", "at 'none|rotate'", "a name"),
        ("f(a=1, 2)", "at ')'", "key=value"),
        ("f(a=1, a=2)", "at '2)'", "each key once"),
        ("f('a'=1)", "at '1)'", "a plain word"),
        ("f('a)", 'at "\'a)"', "text in quotes"),
        ("f(a;b)", "at ';b)'", "a name"),
        ("f(1e999)", "at '1e999)'", "not beyond all bounds"),
        (f"f({'9' * 400})", "at '999", "not beyond all bounds"),
    ],
)
def test_a_mistake_is_shown_where_it_is(text, place, expected):
    with pytest.raises(UserError) as caught:
        parse_calls(text)
    message = str(caught.value)
    assert repr(text.strip()) in message, "what was received"
    assert place in message
    assert expected in message
    assert "rotate(30)" in message, "how it is written"


def test_one_call_where_one_is_wanted():
    with pytest.raises(UserError, match="holds 2 calls; allowed: one"):
        parse_call("flip|flip")
    with pytest.raises(UserError, match="holds 0 calls; allowed: one"):
        parse_call("")


@pytest.mark.parametrize("digit", "09")
def test_more_digits_than_python_reads_are_a_mistake_in_one_line(digit):
    with pytest.raises(UserError, match="not beyond all bounds") as caught:
        parse_calls(f"f({digit * 5000})")
    assert "\n" not in str(caught.value)
