import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.report import markup
from engine.report.markup import Markup, escape, tag
from tests.engine.report.html_checks import _Reader


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>", "&lt;script&gt;"),
        ("a & 'b' \"c\"", "a &amp; &#x27;b&#x27; &quot;c&quot;"),
        ("a\nb", r"a\nb"),
        ("\udcff.jpg", r"\xff.jpg"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("98.7\xa0%", "98.7\xa0%"),
        ("猫 $x$", "猫 $x$"),
    ],
)
def test_text_means_nothing_to_a_browser(text, shown):
    assert escape(text) == shown


def test_markup_stays_and_text_in_it_is_escaped_once():
    inner = tag("b", "<&>")
    assert inner == "<b>&lt;&amp;&gt;</b>"
    assert tag("p", inner, "<") == "<p><b>&lt;&amp;&gt;</b>&lt;</p>"
    assert isinstance(tag("p"), Markup)


def test_attributes():
    made = tag("img", class_="a", aria_label='"x"', hidden=True, id=None, src=False)
    assert made == '<img class="a" aria-label="&quot;x&quot;" hidden>'


@given(st.text(st.characters(), max_size=40))
def test_any_name_comes_back_as_text_from_an_independent_parser(name):
    reader = _Reader()
    reader.feed(tag("p", name, title=name) + tag("b", "end"))
    reader.close()
    assert [each for each, _ in reader.tags] == ["p", "b"]
    assert reader.words["p"] == [markup.visible(name)]
    assert reader.tags[0][1]["title"] == markup.visible(name)
    markup.visible(name).encode()  # half a letter could not be written


def test_a_table_says_what_its_heads_are_of():
    made = markup.table("Figures", ("class", "F1"), [("<a>", "1")])
    assert '<th scope="col">F1</th>' in made
    assert '<th scope="row">&lt;a&gt;</th><td>1</td>' in made
    assert "<caption>Figures</caption>" in made


def test_lines_of_a_file_stay_lines():
    made = markup.preformatted("Recipe", '{\n  "a": "<b>"\n}')
    assert "<code>{\n  &quot;a&quot;: &quot;&lt;b&gt;&quot;\n}</code>" in made
    assert html.unescape(made).count("<b>") == 1
