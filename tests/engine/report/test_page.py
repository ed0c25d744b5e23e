"""The page: what it says, whom it serves, and that names in it are only names."""

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
from tests.engine.report import made_facts as made
from tests.engine.report.html_checks import complaints

NASTY = "<img src=x onerror=alert(1)> $a_b$ \n\udcff & \"'"


def text(of: str) -> str:
    """What stands on a page, less its markup."""
    bare = re.sub(r"<style>.*?</style>|<[^>]*>", " ", of, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(bare))


@pytest.fixture(scope="module")
def everything() -> str:
    return page(made.facts(3))


@pytest.mark.parametrize("classes", [2, 3, 7, 20, 21, 120])
def test_nothing_is_to_be_complained_of(classes):
    assert complaints(page(made.facts(classes))) == []


def test_nor_where_there_is_little_to_say():
    bare = made.facts(
        2, DEFAULT_RULE, operating=None, decided=None, mistakes=(), labels=None, course=None,
        curves=(), price_per_hour=None,
    )  # fmt: skip
    made_of_it = page(bare)
    assert complaints(made_of_it) == []
    assert "Nothing is known of it" in made_of_it
    assert "bin/evaluate --positive_class=CLASS --min_recall=0.95" in text(made_of_it)
    for anchor in ("curves", "labels", "resources"):
        assert f'id="{anchor}"' not in made_of_it


def test_the_headline_is_right(everything):
    answers = made.answers(3)
    right = (answers.logits.argmax(1) == answers.labels).mean()
    assert f"{right:.2%}".replace("%", " %") in text(everything)
    assert "measured on 300 images in 3 classes" in text(everything)
    assert "192 × 256 pixels" in text(everything)
    assert "on 3 February 2026" in text(everything)
    assert "<title>flowers: " in everything


def test_the_matrix_of_few_classes_is_a_table(everything):
    answers = made.answers(3)
    table = re.search(r'<table class="confusion">.*?</table>', everything)[0]
    numbers = [int(n) for n in re.findall(r"<td style[^>]*>(\d+)</td>", table)]
    predicted = answers.logits.argmax(1)
    expected = [
        int(((answers.labels == given) & (predicted == named)).sum())
        for given in range(3)
        for named in range(3)
    ]
    assert numbers == expected


def test_the_matrix_of_many_classes_is_drawn_and_its_classes_fold_away():
    shown = page(made.facts(120, images=1200))
    assert '<table class="confusion' not in shown
    assert re.search(r'<svg [^>]*aria-label="Confusion matrix of 120 classes', shown)
    assert "The 15 classes with the lowest F1" in shown
    assert "All 120 classes" in shown
    assert "Top" in text(shown)
    assert len(shown) < 1_000_000


def test_every_chart_has_its_numbers_in_words(everything):
    assert everything.count("<svg") == 5
    assert everything.count("<summary>The numbers</summary>") == 3
    assert "Figures of every epoch" in everything
    assert "Recall at a false alarm rate of at most" in everything


def test_decisions_time_and_cost_are_told(everything):
    said = text(everything)
    assert "class 1 is the answer where its probability is 0.3000 or more" in said
    assert "made to find 95.0 % of them" in said
    assert "An answer is uncertain where no class has a probability of 50.0 %" in said
    assert "At 4 an hour that cost 0.10" in said  # 90 s
    assert "the first step 7.0 s after" in said
    assert "A Processor, 2 cores" in said
    assert "A Card" in said
    # 6 s of steps, of which 2 s waiting, of 90 s in all
    assert "steps 4.0 s 4.4 %" in said
    assert "waiting for data 2.0 s 2.2 %" in said
    assert "the rest 1 min 22 s" in said
    assert "The saved model is that of all epoch 2" in said


def test_names_are_shown_below_the_folder_that_they_share():
    square = made.facts().mistakes[0].image
    names = ("x/1.jpg", "y/2.jpg")
    several = tuple(Mistake(f"/data/val/{n}", "a", "b", 0.9, square, square) for n in names)
    shown = page(made.facts(mistakes=several))
    assert '<span class="file">x/1.jpg</span>' in shown
    assert "Names are below <code>/data/val/</code>" in shown


def test_what_is_not_shown_is_counted():
    assert "And 1 more, which report.json lists." in text(page(made.facts()))


def test_names_mean_nothing_to_a_browser():
    facts = made.facts(3)
    square = facts.mistakes[0].image
    rows = tuple(dataclasses.replace(row, name=NASTY) for row in facts.figures.per_class)
    nasty = dataclasses.replace(
        facts,
        subject=dataclasses.replace(
            facts.subject, run=f"runs/{NASTY}", data=NASTY, own=False, command=NASTY,
            classes=(NASTY,) * 3,
        ),
        figures=dataclasses.replace(facts.figures, per_class=rows),
        curves=tuple(dataclasses.replace(curve, name=NASTY) for curve in facts.curves),
        rule=dataclasses.replace(facts.rule, positive_class=NASTY),
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


def test_a_class_without_images_is_no_trouble():
    facts = made.facts(4, images=3)  # class 3 has none
    shown = page(facts)
    assert complaints(shown) == []
    assert "class 3 0 – – – – – –" in text(shown)
    assert "For each class against all others. The mean over all classes that have" in text(shown)


def test_an_interval_that_can_t_be_trusted_says_so():
    assert "too narrow: 3 classes have one image" in text(page(made.facts(4, images=3)))
    assert "too narrow" not in text(page(made.facts(3)))


def test_a_threshold_alone_is_told_with_how_right_its_answers_are():
    facts = made.facts(rule=DecisionRule(1.5, "class 1", 0.3, 0.95))
    share = text(percent(facts.decided.accuracy))
    right = f"Of all answers, by this threshold, {share} are right"
    assert facts.decided.accuracy != facts.figures.accuracy
    assert right in text(page(facts))
    assert "Of all answers" not in text(page(made.facts())), "where some are uncertain"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (AbstentionMetrics(0.9, 300, 0, 1.0, 0.0, Interval(0, 1)), "No image has a sure answer."),
        (
            AbstentionMetrics(0.9, 299, 1, 0.9967, 1.0, Interval(0.2, 1)),
            "299 images (99.67 %). Of the 1 other 100.00 % are right (20.0 to 100.0 %).",
        ),
    ],
)
def test_of_no_sure_answers_none_is_called_right(found, expected):
    said = text(page(made.facts(decided=found)))
    assert expected in said
    assert "Of the 0" not in said


def test_a_share_of_nothing_is_a_dash():
    nothing = OperatingPoint(0.5, 0.0, Interval(0, 1), 0.0, 0, 0, 0, 0, 0.0)
    said = text(page(made.facts(operating=nothing)))
    for row in ("recall – 0 found of 0", "false alarms – 0 of 0", "precision – 0 right of 0"):
        assert row in said
    assert "On these images, before any is left uncertain" in said


def test_temperatures_are_told_as_they_were_used():
    answers = made.answers(3)
    own, others = (measure_reliability(answers, DecisionRule(1.5), here) for here in (True, False))
    plain = measure_reliability(answers, DEFAULT_RULE, True)
    crossed = "each half of them is read here by the temperature of the other half"
    assert crossed in text(page(made.facts(calibrated=own)))
    assert crossed not in text(page(made.facts(calibrated=others)))
    shown = page(made.facts(calibrated=plain))
    assert "No temperature was fitted that would mend it" in text(shown)
    assert "Before the temperature" not in shown
    assert "temperature of 1.000" not in shown


def test_answers_that_are_means_are_said_to_be():
    subject = dataclasses.replace(made.facts().subject, views="the image and its mirror image")
    said = "Each answer is the mean over the image and its mirror image."
    assert said in text(page(made.facts(subject=subject)))
    assert "Each answer is the mean" not in text(page(made.facts()))


def test_by_which_answer_it_is_measured_is_said_where_there_are_two():
    both = text(page(made.facts())), text(page(made.facts(rule=DecisionRule(1.5))))
    assert ["of the likeliest class" in said for said in both] == [True, False]
    assert ["a wrong answer by the likeliest class." in said for said in both] == [True, False]


@pytest.mark.parametrize(
    ("likely", "expected"),
    [
        ([True], "labels agree. The other one is likely wrong. Look"),
        ([False], "The other one may only be hard to tell. Look"),
        ([False, False], "The 2 others may only be hard to tell. Look"),
        ([True, True], "The 2 others are likely wrong, by how sure it is. Look"),
        ([True, False], "Of the 2 others, 1 is likely wrong, by how sure it is; the rest may only"),
        ([True, True, False], "Of the 3 others, 2 are likely wrong"),
        ([], "No label looks wrong."),
    ],
)
def test_how_many_labels_are_likely_wrong(likely, expected):
    square = made.facts().mistakes[0].image
    suspects = tuple(
        SuspectLabel(f"{n}.jpg", "a", "b", one, square) for n, one in enumerate(likely)
    )
    assert expected in text(page(made.facts(labels=LabelCheckSummary(9, 0.5, "x", suspects))))


def test_one_mistake_is_one():
    one = made.facts().mistakes[:1]
    said = text(page(made.facts(mistakes=one)))
    assert "1 image of 300 got a wrong answer by the likeliest class. Here it is, as the" in said


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
def test_letters_stand_out(colours, ink, ground):
    """At 4.5 to 1, as WCAG 2.2 wants it of text (1.4.3); only ink stands on a tint."""
    light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
