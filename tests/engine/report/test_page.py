"""The page: its content, its accessibility, and that names are escaped."""

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.calibration import measure_reliability
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.intervals import Interval
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.report import document
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


def said(*arguments, **changes) -> str:
    """The text of an example's page."""
    return text(page(example.report(*arguments, **changes)))


@pytest.fixture(scope="module")
def everything() -> str:
    return page(example.report(3))


@pytest.mark.parametrize("classes", [2, 3, 7, 20, 21, 120])
def test_page_has_no_accessibility_problems(classes):
    assert complaints(page(example.report(classes))) == []


def test_page_of_little_data_leaves_sections_out():
    missing = {"labels": None, "training": None, "mistakes": (), "curves": ()}
    shown = page(example.report(2, DEFAULT_RULE, **missing))
    assert complaints(shown) == []
    assert "The run is not finished" in shown
    assert "There are no mistakes." in shown
    assert "bin/evaluate --positive_class=CLASS --min_recall=0.95" in text(shown)
    for anchor in ("curves", "labels", "resources"):
        assert f'id="{anchor}"' not in shown


def test_headline_has_accuracy_and_data(everything):
    answers = example.predictions(3)
    right = (answers.logits.argmax(1) == answers.labels).mean()
    shown = text(everything)
    assert f"{right:.2%}".replace("%", " %") in shown
    assert "evaluated on 300 images in 3 classes: the validation split of the run’s own" in shown
    assert "192 × 256 pixels" in shown
    assert "on 3 February 2026" in shown
    assert "<title>flowers: " in everything


def test_summary_names_other_data_images_trained_on_and_augmentation_views():
    changes = {"own": False, "data": "elsewhere", "trained_on": 7, "views": "both"}
    shown = said(context=dataclasses.replace(example.CONTEXT, **changes))
    assert "the validation split of other data, elsewhere, on" in shown
    assert "It was trained on 7 of these images. Probabilities are averaged over both." in shown


def test_matrix_of_few_classes_is_a_table(everything):
    answers = example.predictions(3)
    table = re.search(r'<table class="confusion">.*?</table>', everything)[0]
    numbers = [int(n) for n in re.findall(r"<td style[^>]*>(\d+)</td>", table)]
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (answers.labels, answers.logits.argmax(1)), 1)
    assert numbers == expected.ravel().tolist()


def test_matrix_of_many_classes_is_a_chart_and_their_table_folds():
    shown = page(example.report(120, images=1200))
    assert '<table class="confusion' not in shown
    assert re.search(r'<svg [^>]*aria-label="Confusion matrix of 120 classes', shown)
    assert "The 15 classes with the lowest F1" in shown
    assert "All 120 classes" in shown
    assert "Shown are the 5 classes that are separated worst." in shown
    assert "Top 5" in text(shown)
    assert len(shown) < 1_000_000


def test_every_chart_has_a_table(everything):
    assert everything.count("<svg") == 5
    assert everything.count("<summary>Data</summary>") == 3
    assert "Metrics of every epoch" in everything


def test_curve_tables_have_the_best_value_within_a_limit(everything):
    curve = example.report().curves[0]
    row = re.search(rf"Recall at a false alarm.*?>{curve.name}</th>(.*?)</tr>", everything)[1]
    area, *recalls = map(float, re.findall(r"<td>([\d.]+)", row))
    assert area == pytest.approx(curve.roc.area, abs=1e-4)
    best = curve.roc.y[curve.roc.x <= 0.02].max()  # the limits are 0, 1, 2 %, and so on
    assert recalls[2] == pytest.approx(100 * best, abs=0.05)


def test_page_has_decisions_time_and_cost(everything):
    shown = text(everything)
    for sentence in (
        "The decision is class 1 where its probability is at least 0.3000",
        "fitted for a recall of 95.0 %",
        "A decision is uncertain where no class has a probability of 50.0 %",
        "At 4 an hour both cost 0.111",  # 100 s
        "first step 7.0 s after",
        "at most 1.97 GB of memory on the host",
        "A Processor, 2 cores",
        "A Card",
        "steps 4.0 s 4.0 %",  # 6 s of steps, of which 2 s waiting, of 100 s in all
        "waiting for data 2.0 s 2.0 %",
        "this report 10 s 10.0 %",
        "other 1 min 22 s",
        "The saved model is from all epoch 2",
    ):
        assert sentence in shown


def test_names_are_relative_to_their_common_folder():
    names = ("x/1.jpg", "y/2.jpg")
    square = example.SQUARE
    several = tuple(Mistake(f"/data/val/{n}", "a", "b", 0.9, square, square) for n in names)
    shown = page(example.report(mistakes=several))
    assert '<span class="file">x/1.jpg</span>' in shown
    assert "Names are relative to <code>/data/val/</code>" in shown


def test_mistakes_without_image_are_counted(everything):
    assert "2 images of 300 got a wrong prediction" in text(everything)
    assert "And 1 more, listed in report.json." in text(everything)


def test_names_are_escaped():
    report = example.report(3)
    rows = tuple(dataclasses.replace(row, name=NASTY) for row in report.metrics.per_class)
    square = example.SQUARE
    nasty = dataclasses.replace(
        report,
        run=f"runs/{NASTY}",
        context=dataclasses.replace(report.context, data=NASTY, own=False, command=NASTY),
        metrics=dataclasses.replace(report.metrics, per_class=rows),
        curves=tuple(dataclasses.replace(curve, name=NASTY) for curve in report.curves),
        rule=dataclasses.replace(report.rule, positive_class=NASTY),
        mistakes=(Mistake(NASTY, NASTY, NASTY, 0.5, square, square),),
        labels=LabelCheckSummary(
            9, 0.5, NASTY, (SuspectLabel(NASTY, NASTY, NASTY, False, square),)
        ),
    )
    shown = page(nasty)
    assert complaints(shown) == []
    assert "onerror=alert" in text(shown)
    assert "<img src=x" not in shown
    shown.encode()  # what is half a letter in a name is none in the page


def test_class_without_images_has_dashes():
    shown = page(example.report(4, images=3))  # class 3 has none
    assert complaints(shown) == []
    assert "class 3 0 – – – – – –" in text(shown)
    assert "Mean over all classes with images: ROC area" in text(shown)


def test_interval_with_singleton_classes_is_called_too_narrow(everything):
    assert "too narrow: 3 classes with one image" in said(4, images=3)
    assert "too narrow" not in text(everything)


def test_threshold_without_abstention_has_the_accuracy_of_decisions(everything):
    report = example.report(rule=DecisionRule(1.5, "class 1", 0.3, 0.95))
    share = text(percent(report.decisions.accuracy))
    assert report.decisions.accuracy != report.metrics.accuracy
    assert f"{share} of all decisions are right" in text(page(report))
    assert "of all decisions" not in text(everything), "where some are uncertain"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (AbstentionMetrics(0.9, 300, 0, 1.0, 0.0, Interval(0, 1)), "Of the 0 others, – are right"),
        (
            AbstentionMetrics(0.9, 299, 1, 0.9967, 1.0, Interval(0.2, 1)),
            "299 images (99.67 %). Of the 1 other, 100.00 % are right (20.0 to 100.0 %).",
        ),
    ],
)
def test_abstention_counts_other_decisions(found, expected):
    assert expected in said(decisions=found)


def test_share_with_denominator_0_is_a_dash():
    nothing = OperatingPoint(0.5, 0.0, Interval(0, 1), 0.0, 0, 0, 0, 0, 0.0)
    shown = said(operating_point=nothing)
    for row in (
        "recall – (0.0 to 100.0 %) 0 found of 0",
        "false alarms – 0 of 0",
        "precision – 0 right of 0",
        "On these images, before abstaining",
    ):
        assert row in shown


def test_page_begins_with_verdict_and_validation_beside_test(everything):
    shown = text(everything)
    assert "It overfitted. Test is below validation." in shown
    assert "validation 300 90.00 %" in shown
    assert "test 400 80.00 %" in shown
    assert "test less validation -10.00 points -15.10 to -4.66 points +0.2000" in shown
    log = example.TRAINING
    lone = dataclasses.replace(log, splits={"validation": log.splits["validation"]})
    assert "test less validation" not in said(training=lone)


def test_mistake_without_evidence_says_so():
    mistake = Mistake("a.jpg", "class 0", "class 1", 0.9, example.SQUARE)
    assert "no region speaks for class 1" in said(mistakes=(mistake,))


def test_calibration_says_which_temperature_was_used():
    answers = example.predictions(3)
    own, other = (measure_reliability(answers, DecisionRule(1.5), here) for here in (True, False))
    crossed = "each half of them is scaled here with the temperature of the other half"
    assert crossed in said(calibration=own)
    assert crossed not in said(calibration=other)
    shown = said(calibration=measure_reliability(answers, DEFAULT_RULE, True))
    assert "The model has no temperature" in shown
    assert "before temperature scaling" not in shown
    assert "temperature of 1.000" not in shown


def test_most_likely_class_is_mentioned_where_a_rule_overrides_it(everything):
    for shown, overridden in ((text(everything), True), (said(rule=DecisionRule(1.5)), False)):
        assert (" %, most likely class" in shown) == overridden
        assert ("a wrong prediction by the most likely class." in shown) == overridden


def test_likely_label_errors_are_counted():
    shown = said(labels=example.suspects(True, True, False))
    assert "Likely wrong: 2 labels. Perhaps of images that are hard to classify: 1 label." in shown
    assert "label class 0 , perhaps class 1" in shown
    assert "No label looks wrong." in said(labels=example.suspects())


def test_report_of_limited_time_names_the_command_that_checks_all_labels():
    some = dataclasses.replace(example.suspects(), note="4 of 40 images were examined")
    command = "bin/evaluate --run_dir="
    assert command in said(limited=True, labels=None)
    assert command in said(limited=True, labels=some)
    assert command not in said(limited=True, labels=example.suspects())
    assert command not in said(limited=False, labels=some)


def luminance(color: str) -> float:
    """Of WCAG 2.2, section "relative luminance"."""
    parts = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme):
    """At 4.5 to 1, as WCAG 2.2 requires it of text (1.4.3); only ink stands on a tint."""
    light, dark = Path(document.__file__).with_name("style.css").read_text().split("dark)", 1)
    colors = dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark))
    grounds = [(ink, ground) for ink in ("ink", "muted", "accent") for ground in ("paper", "wash")]
    for ink, ground in (*grounds, ("ink", "tint")):
        darker, lighter = sorted((luminance(colors[ink]), luminance(colors[ground])))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)
