"""The checks of pages: a test that can't fail is worse than none."""

import pytest

from tests.engine.report.html_checks import complaints

GOOD = (
    "<!doctype html><html lang=en><head><title>t</title></head><body><header><h1>a</h1></header>"
    "<nav><a href='#x'>b</a></nav><main id=x><h2>c</h2></main><footer></footer></body></html>"
)


def test_good_page_has_no_complaints():
    assert complaints(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (" lang=en", "", "no language"),
        ("<title>t", "<title>", "no title"),
        ("<h2>c</h2>", "<h3>c</h3>", "a heading of level 3 below one of level 1"),
        ("<h2>c</h2>", "<h1>c</h1>", "2 headings of level 1"),
        ("<h2>c</h2>", "<h2></h2>", "an empty <h2>"),
        ("<h2>c</h2>", "<h2>c", "</main> closes what is not open"),
        ("<h2>c", "<img src='data:image/png;base64,'><h2>c", "an image without words"),
        ("<h2>c", "<img alt=a src='https://example.org/a.png'><h2>c", "<img> reaches for 'https"),
        ("<h2>c", "<svg></svg><h2>c", "a drawing without words"),
        ("<h2>c", "<table><tr><th>x</th></tr></table><h2>c", "a <th> without scope"),
        ("<h2>c", "<table></table><h2>c", "1 of <table> and 0 of <caption>"),
        ("<h2>c", "<script></script><h2>c", "<script> is more than text"),
        ("<h2>c", "<p onclick=x></p><h2>c", "<p> is more than text"),
        ("<h2>c", "<p id=x></p><h2>c", "duplicate id 'x'"),
        ("#x", "#y", "<a> leads to '#y', which is not there"),
        ("<h2>c", "<section aria-labelledby=q></section><h2>c", "aria-labelledby names 'q'"),
        ("<h2>c", "<p style='background: url(a.png)'></p><h2>c", "<p> reaches for 'a.png'"),
        ("<h2>c", "<div class=scroll></div><h2>c", "a box that scrolls"),
        ("</head>", "<style>@import 'a.css'</style></head>", "the style sheet reaches"),
        ("<footer></footer>", "", "0 of <footer>"),
    ],
)  # fmt: skip
def test_fault_is_reported(old, new, complaint):
    assert old in GOOD
    assert any(found.startswith(complaint) for found in complaints(GOOD.replace(old, new, 1)))
