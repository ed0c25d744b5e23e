from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.call_syntax import Call, parse_call, parse_calls
from engine.core.errors import UserError

names = st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True).filter(
    lambda name: name.isidentifier() and name != "none"
)
texts = st.text(max_size=9).filter(lambda text: not {"'", '"'} <= set(text))
values = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)


def calls_of(arguments):
    return st.builds(
        Call,
        names,
        st.lists(arguments, max_size=3).map(tuple),
        st.dictionaries(names, arguments, max_size=3),
    )


calls = st.recursive(calls_of(values), lambda inner: calls_of(values | inner), max_leaves=4)


def types(value):
    """The type of each value: True == 1 == 1.0."""
    if not isinstance(value, Call):
        return type(value)
    return [types(inner) for inner in (*value.args, *value.kwargs.values())]


def parsed_or_refused(make, *arguments):
    """The result, or None after a UserError of one line."""
    try:
        return make(*arguments)
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


@given(calls)
def test_parse_of_written_call_returns_the_same_call(call):
    again = parse_call(str(call))
    assert again == call
    assert types(again) == types(call)


@given(st.lists(calls, max_size=4).map(tuple))
def test_parse_of_joined_calls_returns_the_same_calls(row):
    assert parse_calls("|".join(map(str, row))) == row


odd = st.sampled_from(["f(", ")", "a=", "0" * 4301, "9" * 400, "\n", "\u2028", "٣", "²", "ﬁ", "|"])
anything = (
    st.text(alphabet="ab(),=|'\" 1.e-+_/", max_size=20)
    | st.lists(odd | st.text(max_size=3), max_size=6).map("".join)
    | st.builds("f({})".format, odd | st.text(max_size=9))
)


@settings(deadline=None, max_examples=300)
@given(anything)
def test_parse_of_any_text_returns_calls_or_raises_one_line(text):
    row = parsed_or_refused(parse_calls, text)
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
        ("p(average=soup(3))", Call("p", (), {"average": Call("soup", (3,))})),
        ("f(g(), true(h(a=1.5)), g)",
         Call("f", (Call("g"), Call("true", (Call("h", (), {"a": 1.5}),)), "g"))),
        ("f(1,\n a=b , c = 'd|e(f)')", Call("f", (1,), {"a": "b", "c": "d|e(f)"})),
    ],
)  # fmt: skip
def test_parse_call_accepts(text, call):
    assert parse_call(text) == call
    assert types(parse_call(text)) == types(call)


@pytest.mark.parametrize("text", ["", "  ", "none", " none "])
def test_parse_calls_of_nothing_is_empty(text):
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
        ("f(g(1)=2)", "at '2)'", "a plain word"),
        ("f(g(1)", "at its end", "',' or ')'"),
        ("f(none(1))", "at '(1))'", "',' or ')'"),
        ("f(3x(1))", "at '(1))'", "',' or ')'"),
        ("f(" * 25, "at 'f(f(", "at most 20 calls"),
        ("f(a;b)", "at ';b)'", "a name"),
        ("f(1e999)", "at '1e999)'", "not beyond all bounds"),
        (f"f({'9' * 400})", "at '999", "not beyond all bounds"),
    ],
)
def test_syntax_error_names_place_and_expectation(text, place, expected):
    with pytest.raises(UserError) as caught:
        parse_calls(text)
    message = str(caught.value)
    assert repr(text.strip())[:900] in message, "what was received"
    assert place in message
    assert expected in message
    assert "rotate(30)" in message, "how it is written"


def test_parse_call_of_two_calls_is_refused():
    with pytest.raises(UserError, match="holds 2 calls; allowed: one"):
        parse_call("flip|flip")
    with pytest.raises(UserError, match="holds 0 calls; allowed: one"):
        parse_call("")


@pytest.mark.parametrize("digit", "09")
def test_number_of_too_many_digits_is_refused_in_one_line(digit):
    with pytest.raises(UserError, match="not beyond all bounds") as caught:
        parse_calls(f"f({digit * 5000})")
    assert "\n" not in str(caught.value)
