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
def test_text_is_escaped(text, shown):
    assert escape(text) == shown


def test_tag_escapes_text_and_attributes_and_keeps_markup():
    shown = tag("p", tag("b", "<&>"), "<", class_="a", aria_label='"x"', id=None)
    attributes = 'class="a" aria-label="&quot;x&quot;"'
    assert shown == f"<p {attributes}><b>&lt;&amp;&gt;</b>&lt;</p>"
    assert isinstance(shown, Markup)


@given(st.text(st.characters(), max_size=40))
def test_any_name_survives_an_independent_parser(name):
    reader = _Reader()
    reader.feed(tag("p", name, title=name) + tag("b", "end"))
    reader.close()
    assert [each for each, _ in reader.tags] == ["p", "b"]
    assert reader.words["p"] == [markup.visible(name)]
    assert reader.tags[0][1]["title"] == markup.visible(name)
    markup.visible(name).encode()  # half a letter could not be written


def test_table_heads_have_scopes():
    html_text = markup.table("Figures", ("class", "F1"), [("<a>", "1")])
    assert '<th scope="col">F1</th>' in html_text
    assert '<th scope="row">&lt;a&gt;</th><td>1</td>' in html_text
    assert "<caption>Figures</caption>" in html_text


def test_preformatted_keeps_lines():
    html_text = markup.preformatted("Recipe", '{\n  "a": "<b>"\n}')
    assert "<code>{\n  &quot;a&quot;: &quot;&lt;b&gt;&quot;\n}</code>" in html_text
