"""The result file, its table, and what it says of the limit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.benchmark import report as reports
from engine.benchmark.report import Rate, Report, efficiency, explain, table
from engine.errors import UserError
from tests.engine.benchmark.made import STAGES, rate, report, row, with_gpus

speeds = st.floats(0.001, 1e8)


@given(st.lists(speeds, min_size=1, max_size=9))
def test_a_rate_is_the_quartiles_that_numpy_finds(samples):
    found = Rate.of(samples)
    expected = np.percentile(samples, [25, 50, 75])
    np.testing.assert_allclose([found.low, found.median, found.high], expected, rtol=1e-12)
    assert found.repeats == len(samples)


def test_the_spread_is_half_the_distance_of_the_quartiles():
    assert Rate(100.0, 90.0, 120.0, 5).spread == pytest.approx(0.15)


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0, 2.0], [float("nan")], [float("inf")]])
def test_what_is_no_rate(samples):
    with pytest.raises(UserError, match="allowed"):
        Rate.of(samples)


@pytest.mark.parametrize(
    "change",
    [
        {"stages": {}},
        {"stages": {"decode": 100.0}},
        {"batch_size": 0},
        {"image_size": (224, 0)},
        {"backbone": ""},
        {"phase": "two\nlines"},
        {"precision": "\x1b[31m"},
        {"backbone": "x" * 201},
        {"peak_memory": {"host": -1}},
    ],
)
def test_what_is_no_row(change):
    with pytest.raises(UserError, match="allowed"):
        row(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": ()},
        {"price_per_hour": -1.0},
        {"price_per_hour": float("nan")},
        {"instance_type": ""},
        {"machine": {"cpu": "AMD EPYC", "cores": 2}},
        {"machine": {"cpu": None, "cores": 2, "gpus": []}},
        {"machine": {"cpu": "AMD EPYC", "cores": "2", "gpus": []}},
        {"machine": {"cpu": "AMD EPYC", "cores": 2, "gpus": ["NVIDIA L4"]}},
        {"machine": with_gpus("NVIDIA L4") | {"driver": 550}},
        {"software": {"tensorflow": None}},
    ],
)
def test_what_is_no_report(change):
    with pytest.raises(UserError):
        report(**change)


def passed(stages: dict[str, float], shares_cores: bool, images: int = 1000) -> float:
    """Images/s of a simulation: each device takes its stages' time, the devices side by side."""
    clocks = {"cores": 0.0, "gpu": 0.0}
    for _ in range(images):
        for name, speed in stages.items():
            clocks["cores" if shares_cores or name == "input" else "gpu"] += 1 / speed
    return images / max(clocks.values())


@pytest.mark.parametrize("shares_cores", [True, False])
@given(stages=st.dictionaries(st.sampled_from(sorted(STAGES)), st.floats(1, 1e5), min_size=1))
@settings(max_examples=20)
def test_the_stages_allow_what_a_simulation_reaches(shares_cores, stages):
    measured = row(whole=10.0, stages=stages, shares_cores=shares_cores)
    assert efficiency(measured) == pytest.approx(10.0 / passed(stages, shares_cores))


def test_efficiency_by_hand():
    """1, 0.25, 2 and 4 ms an image are 7.25 ms on shared cores; a GPU has 6.25 of them."""
    assert efficiency(row(whole=100.0)) == pytest.approx(100 * 7.25e-3)
    assert efficiency(row(whole=100.0, shares_cores=False)) == pytest.approx(100 * 6.25e-3)
    slow = {**STAGES, "input": 125.0}
    assert efficiency(row(100.0, slow, shares_cores=False)) == pytest.approx(100 / 125)


@pytest.mark.parametrize("shares_cores", [True, False])
@pytest.mark.parametrize(
    ("stage", "words", "advice"),
    [
        ("input", "The input", "--cache=pixels"),
        ("augment", "The augmentation", "--augment"),
        ("trunk", "The trunk", "--cache=features"),
        ("tail", "The tail", "fewer open stages"),
    ],
)
def test_the_slowest_stage_is_the_limit(stage, words, advice, shares_cores):
    stages = dict.fromkeys(STAGES, 4000.0) | {stage: 100.0}
    text = explain(row(1000 / 10.75, stages, shares_cores=shares_cores))
    assert text.startswith(f"{words} is the limit: ")
    assert advice in text
    assert ("a GPU" in text.split("What helps")[1]) == (shares_cores and stage != "input")
    assert "\n" not in text
    assert "lost" not in text


def test_the_share_of_the_limit_and_what_is_lost():
    """The tail takes 4 of 7.25 ms; 69 images/s are half of the 137.9 that these allow."""
    text = explain(row(whole=500 / 7.25))
    assert "it takes 55% of the time that the stages need on these cores" in text
    assert text.endswith("reaches 50% of what the stages allow; the remaining 50% is lost between "
                         "them.")  # fmt: skip


def test_by_how_much_the_other_device_is_faster():
    """The GPU needs 6.25 ms: 160 images/s, of which the tail takes 64%; the input gives 1,000."""
    text = explain(row(whole=160.0, shares_cores=False))
    assert "The tail is the limit: it takes 64% of the GPU's time" in text
    assert "the input could give 6.2 times as many images" in text
    text = explain(row(40.0, {**STAGES, "input": 40.0}, shares_cores=False))
    assert "The input is the limit: the GPU could take 4.0 times as many images" in text


def test_one_stage_alone_is_the_limit():
    assert "takes 100% of" in explain(row(90.0, {"tail": 100.0}, shares_cores=False))
    assert "takes 100% of" in explain(row(90.0, {"input": 100.0}, shares_cores=False))


def test_a_precision_helps_where_the_slowest_is_in_use():
    assert "--precision" in explain(row(shares_cores=False))
    assert "--precision" not in explain(row(shares_cores=False, precision="mixed_bfloat16"))


FULL = report(
    row(batch_size=16),
    row(stages={"tail": 7.5}, peak_memory={"host": 1, "gpu_0": 2}, shares_cores=False),
    machine=with_gpus("NVIDIA L4", "NVIDIA L4") | {"driver": "550.90.07", "anything": [1.5, None]},
    instance_type="g6.12xlarge",
    price_per_hour=4.6016,
    command="bin/benchmark --phase='two\nlines' \udcff",
)


@pytest.mark.parametrize("made", [FULL, report()])
def test_a_file_gives_the_same_report_again(made, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(made.to_json(), "utf-8")
    assert reports.load(path) == made
    assert json.loads(made.to_json())["version"] == 1


def test_the_file_says_what_was_measured():
    values = json.loads(FULL.to_json())
    assert values["instance_type"] == "g6.12xlarge"
    assert values["rows"][0]["stages"]["tail"] == {
        "median": 250.0, "low": 250.0, "high": 250.0, "repeats": 5
    }  # fmt: skip
    assert values["rows"][1]["peak_memory"] == {"host": 1, "gpu_0": 2}


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        Report.from_json(text, "some/file.json")
    message = str(caught.value)
    assert message.startswith("some/file.json: no result of this version of bin/benchmark (")
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "list; allowed: an object"),
        ('{"version": 2}', "version=2; allowed: 1"),
        ('{"version": true}', "version=True"),
        ("{}", "version=None"),
        ('{"version": 1}', "key 'machine' is missing"),
        ('{"version": 1, "rows": NaN}', "NaN"),
        ("[" * 100_000, "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "digit"),
    ],
)
def test_what_is_no_file_of_ours(text, reason):
    assert reason in refused(text)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("rows", 0, "batch_size"), "32", "batch_size='32'; allowed: a whole number"),
        (("rows", 0, "batch_size"), 32.0, "batch_size=32.0"),
        (("rows", 0, "shares_cores"), 1, "shares_cores=1; allowed: true or false"),
        (("rows", 0, "image_size"), [224], "allowed: 2 values"),
        (("rows", 0, "whole", "median"), None, "median=None; allowed: a number"),
        (("rows", 0, "whole", "median"), 1e9, "rising order"),
        (("rows", 0, "whole", "high"), 10**400, "too large"),
        (("rows", 0, "stages", "tail"), 250.0, "stage is float"),
        (("rows", 0, "stages", "trunks"), {}, "key 'median' is missing"),
        (("rows", 0, "peak_memory"), {"host": "2 GB"}, "peak_memory of host='2 GB'"),
        (("rows", 0), [], "allowed: an object"),
        (("rows",), {}, "allowed: a list"),
        (("price_an_hour",), 1, "did you mean 'price_per_hour'?"),
        (("price_per_hour",), "0.8", "price_per_hour='0.8'; allowed: a number"),
        (("machine", "gpus"), None, "machine.gpus"),
    ],
)
def test_a_value_that_does_not_fit_is_named(place, value, reason):
    assert reason in refused(json.dumps(changed(json.loads(FULL.to_json()), place, value)))


def changed(values: Any, place: tuple, value: Any) -> Any:
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return values


def places(values: Any, here: tuple = ()) -> list[tuple]:
    """Every place inside of lists and objects."""
    keys = values.keys() if isinstance(values, dict) else range(len(values))
    found = []
    for key in keys:
        found.append((*here, key))
        if isinstance(values[key], dict | list):
            found += places(values[key], (*here, key))
    return found


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just("\x1b[2J\n")
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_is_refused_or_can_be_shown(data):
    values = json.loads(FULL.to_json())
    place = data.draw(st.sampled_from(places(values)))
    damaged = json.dumps(changed(values, place, data.draw(anything)))
    try:
        found = Report.from_json(damaged, "some/file.json")
    except UserError:
        refused(damaged)
        return
    assert table(found).replace("\n", "").isprintable()
    assert all("\n" not in explain(measured) for measured in found.rows)


@given(st.text() | anything.map(json.dumps))
def test_any_other_text_is_refused(text):
    refused(text)


def test_a_file_that_can_not_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: can't be read \(No such file"):
        reports.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="can't be read"):
        reports.load(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no text in UTF-8"):
        reports.load(tmp_path / "bytes.json")


def test_the_table_has_all_figures():
    text = table(FULL)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "batch input augment trunk tail whole efficiency memory" in lines
    assert "16 1,000 ±0% 4,000 ±0% 500 ±0% 250 ±0% 80.0 ±10% 58% 2.0 GB" in lines
    assert "32 - - - 7.50 ±0% 80.0 ±10% 1067% 2 B" in lines
    assert "efficientnet_lite0 224x192, float32, phase fine_tune" in text
    for words in ("g6.12xlarge", "2 x NVIDIA L4, driver 550.90.07", "AMD EPYC, 8 cores",
                  "tensorflow 2.21.0", "4.6016 an hour"):  # fmt: skip
        assert words in text
    assert "no GPU in use" in table(report())


def test_numbers_stand_right_in_columns_of_a_hundred_letters():
    most = rate(99_999.0, 0.45)
    wide = row(batch_size=4096, backbone="b" * 120, peak_memory={"host": 10**12})
    wide = dataclasses.replace(wide, whole=most, stages=dict.fromkeys(STAGES, most))
    lines = table(report(row(whole=7.25), wide, row(batch_size=64))).splitlines()
    assert max(map(len, lines)) <= 100
    blocks = [lines.index(line) for line in lines if line.lstrip().startswith("batch")]
    for start in blocks:
        ends = {len(line) for line in lines[start : start + 2]}
        assert len(ends) == 1, "a head ends where its numbers end"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "AMD EPYC, 2 cores"),
        ({"machine": {"cpu": "Xeon", "cores": 1, "gpus": []}}, "Xeon, 1 core"),
        ({"machine": with_gpus("NVIDIA L4")}, "NVIDIA L4"),
        ({"machine": with_gpus("A", "B", "A")}, "2 x A, B"),
        ({"machine": with_gpus("A"), "instance_type": "g6.xlarge"}, "g6.xlarge"),
    ],
)
def test_a_machine_is_called(changes, expected):
    assert reports.label(report(**changes)) == expected


def test_file_names_are_plain_and_differ_by_machine_and_time():
    first = report(instance_type="../a b/\\c")
    names = {reports.file_name(first), reports.file_name(report(when="2026-01-02T03:04:06"))}
    names.add(reports.file_name(dataclasses.replace(first, when="2027-01-01T00:00:00")))
    assert len(names) == 3
    for name in names:
        assert Path(name).name == name
        assert name.endswith(".json")
        assert not name.startswith((".", "-"))
