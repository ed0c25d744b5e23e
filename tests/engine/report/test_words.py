import math

import pytest

from engine.report import words
from engine.report.intervals import Interval


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (words.count(1, "picture"), "1 picture"),
        (words.count(1000, "class", "classes"), "1,000 classes"),
        (words.percent(0.98704), "98.70 %"),
        (words.percent(None), "–"),
        (words.percent(math.nan), "–"),
        (words.span(Interval(0.9779, 0.9924), 1), "97.8 to 99.2 %"),
        (words.seconds(0.55), "0.6 s"),
        (words.seconds(200), "3 min 20 s"),
        (words.size(1_973_559_296), "1.97 GB"),
        (words.size(12), "12 bytes"),
        (words.money(0.010388), "0.010"),
        (words.money(1234.5), "1,234.50"),
        (words.money(0), "0.00"),
        (words.names(["a"]), "a"),
        (words.names(["a", "b", "c"]), "a, b and c"),
        (words.day("2026-02-03T04:05:06+00:00"), "3 February 2026"),
    ],
)
def test_numbers_in_words(made, expected):
    assert made.replace("\xa0", " ") == expected
