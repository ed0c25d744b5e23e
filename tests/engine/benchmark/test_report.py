"""The result file: written, loaded, refused, and formatted as a table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from engine.benchmark import report as reports
from engine.benchmark.report import format_table
from engine.core.errors import UserError
from tests.engine.benchmark.benchmark_reports import STAGES, measurement, rate, report, with_gpus


@pytest.mark.parametrize(
    "change",
    [
        {"rows": ()},
        {"price_per_hour": -1.0},
        {"price_per_hour": float("nan")},
        {"machine": {"cpu": "AMD EPYC", "cores": 2}},
        {"machine": {"cpu": None, "cores": 2, "gpus": []}},
        {"machine": {"cpu": "AMD EPYC", "cores": "2", "gpus": []}},
        {"machine": {"cpu": "AMD EPYC", "cores": 2, "gpus": ["NVIDIA L4"]}},
    ],
)
def test_report_with_invalid_value_is_refused(change):
    with pytest.raises(UserError):
        report(**change)


FULL = report(
    measurement(batch_size=16),
    measurement(stages={"tail": 7.5}, peak_memory={"host": 1, "gpu_0": 2}, shares_cores=False),
    machine=with_gpus("NVIDIA L4", "NVIDIA L4") | {"driver": "550.90.07", "anything": [1.5, None]},
    instance_type="g6.12xlarge",
    price_per_hour=4.6016,
    command="bin/benchmark --phase='two\nlines' \udcff",
)


@pytest.mark.parametrize("written", [FULL, report()])
def test_report_file_roundtrip(written, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(written.to_json(), "utf-8")
    assert reports.load(path) == written
    values = json.loads(written.to_json())
    assert values["version"] == 1
    assert values["rows"][0]["stages"]["tail"] == {
        "median": 250.0, "low": 250.0, "high": 250.0, "repeats": 5
    }  # fmt: skip


@pytest.fixture
def refusal(tmp_path):
    """Returns the reason for which a file of this text is refused."""

    def load(text: str) -> str:
        path = tmp_path / "file.json"
        path.write_text(text, "utf-8")
        with pytest.raises(UserError) as caught:
            reports.load(path)
        start, message = f"{path}: is not a result of this version of", str(caught.value)
        assert message.startswith(start)
        assert "\n" not in message
        assert len(message) < len(start) + 350
        return message

    return load


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "list; allowed: an object"),
        ('{"version": 2}', "version=2; allowed: 1"),
        ('{"version": true}', "version=True"),
        ("{}", "version=None"),
        ('{"version": 1}', "key 'machine' is missing"),
        ("[" * 100_000, "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "digit"),
    ],
)
def test_report_of_other_text_is_refused(refusal, text, reason):
    assert reason in refusal(text)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("rows", 0, "batch_size"), "32", "batch_size='32'; allowed: a whole number"),
        (("rows", 0, "batch_size"), 32.0, "batch_size=32.0"),
        (("rows", 0, "shares_cores"), 1, "shares_cores=1; allowed: true or false"),
        (("rows", 0, "image_size"), [224], "allowed: 2 values"),
        (("rows", 0, "whole", "median"), None, "median=None; allowed: a number"),
        (("rows", 0, "whole", "median"), 1e9, "rising order"),
        (("rows", 0, "whole", "median"), float("nan"), "rising order"),
        (("rows", 0, "whole", "high"), 10**400, "a number"),
        (("rows", 0, "stages", "tail"), 250.0, "tail is float"),
        (("rows", 0, "stages", "trunks"), {}, "key 'median' is missing"),
        (("rows", 0, "peak_memory"), {"host": "2 GB"}, "peak_memory.host='2 GB'"),
        (("rows", 0), [], "allowed: an object"),
        (("rows",), {}, "allowed: a list"),
        (("price_an_hour",), 1, "did you mean 'price_per_hour'?"),
        (("price_per_hour",), "0.8", "price_per_hour='0.8'; allowed: a number"),
        (("machine", "gpus"), None, "machine.gpus=None"),
        (("machine", "cpu"), ["a"], "machine.cpu=['a']; allowed: a word"),
        (("software", "python"), 3, "software.python=3"),
    ],
)
def test_report_with_wrong_type_names_value(refusal, path, value, reason):
    values = inner = json.loads(FULL.to_json())
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert reason in refusal(json.dumps(values))


def test_unreadable_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: can't be read \(No such file"):
        reports.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="can't be read"):
        reports.load(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="can't decode byte 0xff"):
        reports.load(tmp_path / "bytes.json")


def test_table_shows_all_values():
    text = format_table(FULL)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "batch input augment trunk tail whole efficiency memory" in lines
    assert "16 1,000 ±0% 4,000 ±0% 500 ±0% 250 ±0% 80.0 ±10% 58% 2 GB" in lines
    assert "32 - - - 7.50 ±0% 80.0 ±10% 1067% 2 bytes" in lines
    assert "efficientnet_lite0 224x192, float32, phase fine_tune" in text
    for words in ("g6.12xlarge", "2 x NVIDIA L4, driver 550.90.07", "AMD EPYC, 8 cores",
                  "tensorflow 2.21.0", "4.6016 an hour"):  # fmt: skip
        assert words in text
    assert "no GPU in use" in format_table(report())


def test_table_aligns_columns_within_100_letters():
    most = rate(99_999.0, 0.45)
    wide = measurement(batch_size=4096, backbone="b" * 120, peak_memory={"host": 10**12})
    wide = dataclasses.replace(wide, whole=most, stages=dict.fromkeys(STAGES, most))
    lines = format_table(
        report(measurement(whole=7.25), wide, measurement(batch_size=64))
    ).splitlines()
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
def test_machine_label_prefers_instance_type(changes, expected):
    assert reports.machine_label(report(**changes)) == expected


def test_file_name_is_unique_by_machine_and_time():
    first = report(instance_type="../a b/\\c")
    times = (first.when, "2026-01-02T03:04:06", "2027-01-01T00:00:00")
    names = {reports.file_name(reports.machine_label(first), when) for when in times}
    assert len(names) == 3
    for name in names:
        assert Path(name).name == name
        assert name.endswith(".json")
        assert not name.startswith((".", "-"))
