"""Fuzz: what people write (flags, lists of images), and the JSON files of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine.benchmark import report as reports
from engine.benchmark.compare import compare
from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.core import digests
from engine.core.call_syntax import Call
from engine.core.errors import UserError
from engine.core.recipe import DataSpec, Phase, Recipe, to_json
from engine.frozen import precision
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.phase_plan import PhasePlan, PlanFile
from engine.frozen.precision import ComputeMode, PrecisionTrial
from engine.runs.directory import RunDirectory
from engine.runs.nan_events import NanEvent, read_nan_events, reduce_rate, write_nan_events
from pipelines.sources.manifest import read_manifest
from tests.engine.benchmark import benchmark_reports
from tests.fuzz.mutations import cases, json_cases

ROOT = Path(__file__).resolve().parents[2]

MANIFESTS = [
    b"path,label,split,group\na.jpg,cat,train,1\nb.jpg,dog,val,1\n\nc/d.jpg,cat,test,\n",
    b'\xef\xbb\xbf"label";"path"\r\n'.replace(b";", b",") + b'dog,"a ""b"",\nc.png"\r\n',
    "Filename;Class\r\nä.jpg;Käfer\r\n".encode("utf-16"),
    "path,weight,label\nä/€.jpg,3,Käfer\n".encode() + b"\xff.jpg,1,K\xe4fer\n",
]
MANIFEST_TOKENS = [b'"', b'""', b",", b'"\n', b"path", b"label", b"splits", b"../", b"~", b"C:\\"]
ODD_MANIFESTS = [
    b"",
    b"path,label\n" + b"a" * 200_000 + b",b\n",
    b'path,label\n"' + b"a\n" * 200_000,
    b"path,label\n" + b"," * 300_000,
    b"pat,label" + b",x" * 50_000,
    b"a" * 100_000,
    MANIFESTS[0].decode().encode("utf-16"),
    MANIFESTS[0].replace(b"\n", b"\r"),
    bytes(10_000),
]

FLAG_TOKENS = [
    *(b"\n--", b"--", b"--no", b"=", b"--=", b"#", b"//", b"--flagfile=", b"--help", b"-h", b"~\0"),
    *(b"--phase=", b"--augment=", b"--image_size=", b"--cache_memory=", b"--undefok=", b"|", b"("),
    *(b")", b"'", b'"', b",", b"none", b"true", b"9TB", b"1x1", b"--validation_fraction=", b"inf"),
]
ODD_FLAG_FILES = [
    b"--flagfile=case",
    b"--flagfile=.",
    b"--flagfile=case\n--flagfile=./case",
    b"--flagfile",
    b"--cache_memory=" + b"9" * 400,
    b"--data_dir=~\0",
    b"--seed=3\n" * 200_000,
    b"#" * 3_000_000,
    b"--phase=" + b"(" * 100_000,
    b"--augment=" + b"flip|" * 20_000,
    b"--augment=rotate(" + b"9" * 5000 + b")",
    b"--batch_size=" + b"9" * 4000,
    b"\xff\xfe-\0-\0",
    b"\x7fELF" + bytes(5000),
]

RECIPE = Recipe(
    data=DataSpec("split_folders", "/p/train", "/p/val", limit_examples=5),
    phases=(
        Phase("transfer", options={"momentum": 0.9, "nesterov": True}, optimizer="sgd"),
        Phase("tune", "block6", schedule="cosine", clip_global_norm=1.0, views=4, refresh=0.5),
    ),
    backbone="efficientnet_lite0",
    image_size=(224, 192),
    augment=(Call("rotate", (30,)), Call("flip", (), {"probability": 0.25})),
)
# What is wrong with JSON as JSON: `json_cases` changes what it says.
JSON_TOKENS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"NaN", b"-Infinity", b"\\ud800", b"null"]
ODD_JSON = [
    b"",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 5000 + b"]" * 5000,
    b"9" * 100_000,
    b"1e999",
    b'"\\ud800"',
    b'{"phases": {}, "phases": 3}',
    b"\xff\xfe{\0}\0",
    b'"' + b"x" * 1_000_000,
]


def test_fuzzed_manifest_is_read_or_refused(judge, tmp_path):
    def read(data: bytes) -> None:
        (tmp_path / "list.csv").write_bytes(data)
        read_manifest(str(tmp_path / "list.csv"))

    assert judge("manifest", read, MANIFESTS, UserError) == (len(MANIFESTS), 0)
    judge("manifest", read, ODD_MANIFESTS, UserError)
    inputs = cases(MANIFESTS, MANIFEST_TOKENS, 75 * judge.times)
    assert all(judge("manifest", read, inputs, UserError))


def test_fuzzed_flag_file_is_read_or_refused(judge, tmp_path, monkeypatch):
    """The flag files that come with the project, to the recipe that they mean."""
    monkeypatch.chdir(tmp_path)

    def read(data: bytes) -> None:
        (tmp_path / "case").write_bytes(data)
        parsed = command_line.parse("[flags]", cli_flags.RUN, ["bin/train", "--flagfile=case"])
        cli_flags.build_recipe(parsed)

    samples = [path.read_bytes() for path in sorted(ROOT.glob("*.flags"))]
    assert judge("flag file", read, samples, UserError) == (len(samples), 0)
    judge("flag file", read, ODD_FLAG_FILES, UserError)
    inputs = cases(samples, FLAG_TOKENS, 75 * judge.times)
    assert all(judge("flag file", read, inputs, UserError))


def _deep(sample: bytes) -> list[bytes]:
    """The last word is a list in a list, as deep as Python just reads or just does not."""
    *_, last = re.finditer(rb': "[^"]*"', sample)
    before, behind = sample[: last.start()] + b": ", sample[last.end() :]
    return [before + b"[" * depth + b"]" * depth + behind for depth in range(700, 1000, 3)]


def read_recipe(run: RunDirectory) -> None:
    to_json(run.read_recipe())


def read_plan(run: RunDirectory) -> None:
    for plan in PlanFile(run.plan, RECIPE, print).plans.values():
        assert plan.cache is None or (plan.cache.slots >= 0 and plan.cache.views != 0)
        for trials in filter(None, (plan.trunk, plan.tail)):
            precision.format_trials(trials)


def read_events(run: RunDirectory) -> None:
    for phase in RECIPE.phases:
        rate = reduce_rate(lambda _: 1.0, read_nan_events(run), phase, 5)
        assert 0 <= rate(15) <= 1


def read_benchmark(run: RunDirectory) -> None:
    report = reports.load(run.path / "benchmark.json")
    text = reports.format_table(report) + compare([report])
    assert text.replace("\n", "").isprintable()


def write_samples(run: RunDirectory) -> None:
    """A good file of each kind."""
    run.path.mkdir()
    run.recipe.write_text(to_json(RECIPE))
    values = {"status": "finished", "best": {"phase": "a", "val_accuracy": 0.9}, "classes": ["a"]}
    run.result.write_text(json.dumps(values))
    write_nan_events(run, [NanEvent("transfer", 12, 10), NanEvent("tune", 30, 20)])
    trials = (
        PrecisionTrial(ComputeMode(), 100.0, 0.0),
        PrecisionTrial(ComputeMode("mixed_float16"), 2, 1),
    )
    plan_file = PlanFile(run.plan, RECIPE, print)
    plan_file.plans = {
        "transfer": PhasePlan(trials, trials, CacheDecision(4, 4, True, "the trunk's outputs")),
        "tune": PhasePlan(trials[:1], (), CacheDecision(None, 0, False, "nothing")),
    }
    plan_file.save()
    measured = benchmark_reports.report(
        benchmark_reports.measurement(batch_size=16),
        benchmark_reports.measurement(shares_cores=False),
        machine=benchmark_reports.with_gpus("NVIDIA L4"),
        price_per_hour=4.5,
        instance_type="g6",
    )
    (run.path / "benchmark.json").write_text(measured.to_json())


@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("recipe.json", read_recipe, UserError),
        ("plan.json", read_plan, ()),  # what can't be read counts as none
        ("nan_events.json", read_events, UserError),
        ("result.json", RunDirectory.finished, ()),
        ("benchmark.json", read_benchmark, UserError),
    ],
)
def test_fuzzed_json_is_read_or_refused(judge, tmp_path, name, read, error):
    """JSON that is none, and JSON that says something else; where it is refused, both are."""
    run = RunDirectory(tmp_path / "run")
    write_samples(run)
    (run.path / digests.NAME).unlink()  # it would tell first
    sample = (run.path / name).read_bytes()

    def read_bytes(data: bytes) -> None:
        (run.path / name).write_bytes(data)
        read(run)

    assert judge(name, read_bytes, [sample], error) == (1, 0)
    judge(name, read_bytes, [*ODD_JSON, *_deep(sample)], error)
    _, broken = judge(name, read_bytes, cases([sample], JSON_TOKENS, 50 * judge.times), error)
    _, other = judge(name, read_bytes, json_cases([sample], 75 * judge.times), error)
    assert not error or (broken and other)
