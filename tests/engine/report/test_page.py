"""The page: its content, its accessibility, and that names are escaped."""

import dataclasses
import html
import re

import numpy as np
import pytest

from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.intervals import Interval
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.evaluation.reliability import measure_reliability
from engine.report import style
from engine.report.formatting import percent
from engine.report.page import page
from engine.report.report_data import LabelCheckSummary, Mistake, SuspectLabel
from tests.engine.report import example_report as example
from tests.engine.report.html_checks import complaints

NASTY = "<img src=x onerror=alert(1)> $a_b$ \n\udcff & \"'"


def text(of: str) -> str:
    """What stands on a page, less its markup."""
    bare = re.sub(r"<style>.*?</style>|<[^>]*>", " ", of, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(bare))


@pytest.fixture(scope="module")
def everything() -> str:
    return page(example.report(3))


@pytest.mark.parametrize("classes", [2, 3, 7, 20, 21, 120])
def test_page_has_no_accessibility_problems(classes):
    assert complaints(page(example.report(classes))) == []


def test_page_of_little_data_leaves_sections_out():
    bare = example.report(
        2, DEFAULT_RULE, operating_point=None, decisions=None, mistakes=(), labels=None,
        training=None,
        curves=(), price_per_hour=None,
    )  # fmt: skip
    made_of_it = page(bare)
    assert complaints(made_of_it) == []
    assert "The run is not finished" in made_of_it
    assert "bin/evaluate --positive_class=CLASS --min_recall=0.95" in text(made_of_it)
    for anchor in ("curves", "labels", "resources"):
        assert f'id="{anchor}"' not in made_of_it


def test_headline_has_accuracy_and_data(everything):
    answers = example.predictions(3)
    right = (answers.logits.argmax(1) == answers.labels).mean()
    assert f"{right:.2%}".replace("%", " %") in text(everything)
    assert "evaluated on 300 images in 3 classes" in text(everything)
    assert "192 × 256 pixels" in text(everything)
    assert "on 3 February 2026" in text(everything)
    assert "<title>flowers: " in everything


def test_matrix_of_few_classes_is_a_table(everything):
    answers = example.predictions(3)
    table = re.search(r'<table class="confusion">.*?</table>', everything)[0]
    numbers = [int(n) for n in re.findall(r"<td style[^>]*>(\d+)</td>", table)]
    predicted = answers.logits.argmax(1)
    expected = [
        int(((answers.labels == given) & (predicted == named)).sum())
        for given in range(3)
        for named in range(3)
    ]
    assert numbers == expected


def test_matrix_of_many_classes_is_a_chart_and_their_table_folds():
    shown = page(example.report(120, images=1200))
    assert '<table class="confusion' not in shown
    assert re.search(r'<svg [^>]*aria-label="Confusion matrix of 120 classes', shown)
    assert "The 15 classes with the lowest F1" in shown
    assert "All 120 classes" in shown
    assert "Top" in text(shown)
    assert len(shown) < 1_000_000


def test_every_chart_has_a_table(everything):
    assert everything.count("<svg") == 5
    assert everything.count("<summary>Data</summary>") == 3
    assert "Metrics of every epoch" in everything
    assert "Recall at a false alarm rate of at most" in everything


def test_page_has_decisions_time_and_cost(everything):
    said = text(everything)
    assert "The decision is class 1 where its probability is at least 0.3000" in said
    assert "fitted for a recall of 95.0 %" in said
    assert "A decision is uncertain where no class has a probability of 50.0 %" in said
    assert "At 4 an hour this cost 0.10" in said  # 90 s
    assert "first step 7.0 s after" in said
    assert "A Processor, 2 cores" in said
    assert "A Card" in said
    # 6 s of steps, of which 2 s waiting, of 90 s in all
    assert "steps 4.0 s 4.4 %" in said
    assert "waiting for data 2.0 s 2.2 %" in said
    assert "other 1 min 22 s" in said
    assert "The saved model is from all epoch 2" in said


def test_names_are_relative_to_their_common_folder():
    square = example.report().mistakes[0].image
    names = ("x/1.jpg", "y/2.jpg")
    several = tuple(Mistake(f"/data/val/{n}", "a", "b", 0.9, square, square) for n in names)
    shown = page(example.report(mistakes=several))
    assert '<span class="file">x/1.jpg</span>' in shown
    assert "Names are relative to <code>/data/val/</code>" in shown


def test_mistakes_without_image_are_counted():
    assert "And 1 more, listed in report.json." in text(page(example.report()))


def test_names_are_escaped():
    report = example.report(3)
    square = report.mistakes[0].image
    rows = tuple(dataclasses.replace(row, name=NASTY) for row in report.metrics.per_class)
    nasty = dataclasses.replace(
        report,
        subject=dataclasses.replace(
            report.subject, run=f"runs/{NASTY}", data=NASTY, own=False, command=NASTY,
            classes=(NASTY,) * 3,
        ),
        metrics=dataclasses.replace(report.metrics, per_class=rows),
        curves=tuple(dataclasses.replace(curve, name=NASTY) for curve in report.curves),
        rule=dataclasses.replace(report.rule, positive_class=NASTY),
        mistakes=(Mistake(NASTY, NASTY, NASTY, 0.5, square, square),),
        labels=LabelCheckSummary(
            9, 0.5, NASTY, (SuspectLabel(NASTY, NASTY, NASTY, False, square),)
        ),
    )  # fmt: skip
    shown = page(nasty)
    assert complaints(shown) == []
    assert "onerror=alert" in text(shown)
    assert "<img src=x" not in shown
    shown.encode()  # what is half a letter in a name is none in the page


def test_class_without_images_has_dashes():
    report = example.report(4, images=3)  # class 3 has none
    shown = page(report)
    assert complaints(shown) == []
    assert "class 3 0 – – – – – –" in text(shown)
    assert "For each class against all others. Mean over all classes with images" in text(shown)


def test_interval_with_singleton_classes_is_called_too_narrow():
    assert "too narrow: 3 classes have one image" in text(page(example.report(4, images=3)))
    assert "too narrow" not in text(page(example.report(3)))


def test_threshold_without_abstention_has_the_accuracy_of_decisions():
    report = example.report(rule=DecisionRule(1.5, "class 1", 0.3, 0.95))
    share = text(percent(report.decisions.accuracy))
    right = f"{share} of all decisions are right"
    assert report.decisions.accuracy != report.metrics.accuracy
    assert right in text(page(report))
    assert "of all decisions" not in text(page(example.report())), "where some are uncertain"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (AbstentionMetrics(0.9, 300, 0, 1.0, 0.0, Interval(0, 1)), "All decisions are uncertain."),
        (
            AbstentionMetrics(0.9, 299, 1, 0.9967, 1.0, Interval(0.2, 1)),
            "299 images (99.67 %). Of the 1 other, 100.00 % are right (20.0 to 100.0 %).",
        ),
    ],
)
def test_abstention_counts_other_decisions(found, expected):
    said = text(page(example.report(decisions=found)))
    assert expected in said
    assert "Of the 0" not in said


def test_share_with_denominator_0_is_a_dash():
    nothing = OperatingPoint(0.5, 0.0, Interval(0, 1), 0.0, 0, 0, 0, 0, 0.0)
    said = text(page(example.report(operating_point=nothing)))
    for row in ("recall – 0 found of 0", "false alarms – 0 of 0", "precision – 0 right of 0"):
        assert row in said
    assert "On these images, before abstaining" in said


def test_calibration_says_which_temperature_was_used():
    answers = example.predictions(3)
    own, others = (measure_reliability(answers, DecisionRule(1.5), here) for here in (True, False))
    plain = measure_reliability(answers, DEFAULT_RULE, True)
    crossed = "each half of them is scaled here with the temperature of the other half"
    assert crossed in text(page(example.report(reliability=own)))
    assert crossed not in text(page(example.report(reliability=others)))
    shown = page(example.report(reliability=plain))
    assert "No temperature was fitted to reduce it" in text(shown)
    assert "Before temperature scaling" not in shown
    assert "temperature of 1.000" not in shown


def test_augmentation_views_are_mentioned():
    subject = dataclasses.replace(example.report().subject, views="the image and its mirror image")
    said = "Probabilities are averaged over the image and its mirror image."
    assert said in text(page(example.report(subject=subject)))
    assert "Probabilities are averaged" not in text(page(example.report()))


def test_most_likely_class_is_mentioned_where_a_rule_overrides_it():
    both = text(page(example.report())), text(page(example.report(rule=DecisionRule(1.5))))
    assert ["most likely class" in said for said in both] == [True, False]
    assert ["a wrong prediction by the most likely class." in said for said in both] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("likely", "expected"),
    [
        ([True], "of the labels. The 1 other label is likely wrong. Check"),
        ([False], "The 1 other label may belong to images that are hard to classify. Check"),
        (
            [False, False],
            "The 2 other labels may belong to images that are hard to classify. Check",
        ),
        ([True, True], "The 2 other labels are likely wrong. Check"),
        ([True, False], "Of the 2 other labels, 1 is likely wrong; the rest may belong"),
        ([True, True, False], "Of the 3 other labels, 2 are likely wrong"),
        ([], "No label looks wrong."),
    ],
)
def test_likely_label_errors_are_counted(likely, expected):
    square = example.report().mistakes[0].image
    suspects = tuple(
        SuspectLabel(f"{n}.jpg", "a", "b", one, square) for n, one in enumerate(likely)
    )
    assert expected in text(page(example.report(labels=LabelCheckSummary(9, 0.5, "x", suspects))))


def test_single_mistake_is_singular():
    one = example.report().mistakes[:1]
    said = text(page(example.report(mistakes=one)))
    assert (
        "1 image of 300 got a wrong prediction by the most likely class. It is shown, as the"
        in said
    )


def luminance(colour: str) -> float:
    """Of WCAG 2.2, section "relative luminance"."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colours", [style.LIGHT, style.DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        *((ink, ground) for ink in ("ink", "muted", "accent") for ground in ("paper", "wash")),
        ("ink", "tint"),
    ],
)
def test_text_has_enough_contrast(colours, ink, ground):
    """At 4.5 to 1, as WCAG 2.2 wants it of text (1.4.3); only ink stands on a tint."""
    light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
