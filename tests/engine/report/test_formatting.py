import math

import pytest

from engine.evaluation.intervals import Interval
from engine.report import formatting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.count(1, "image"), "1 image"),
        (formatting.count(1000, "class", "classes"), "1,000 classes"),
        (formatting.percent(0.98704), "98.70 %"),
        (formatting.percent(None), "–"),
        (formatting.percent(math.nan), "–"),
        (formatting.span(Interval(0.9779, 0.9924), 1), "97.8 to 99.2 %"),
        (formatting.seconds(0.55), "0.6 s"),
        (formatting.seconds(200), "3 min 20 s"),
        (formatting.size(1_973_559_296), "1.97 GB"),
        (formatting.size(12), "12 bytes"),
        (formatting.day("2026-02-03T04:05:06+00:00"), "3 February 2026"),
    ],
)
def test_numbers_are_formatted(text, expected):
    assert text.replace("\xa0", " ") == expected
