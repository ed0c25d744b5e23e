"""Mistakes in a command are one line, and nothing is written; flags are refused at once."""

from __future__ import annotations

import re

import pytest

from engine.cli.parsed_flags import FlagError
from engine.core.errors import UserError
from engine.runtime import tensorflow_setup

FLAG_ERRORS = (
    ("benchmark --compare", "no file is named"),
    ("benchmark --compare --nopredict --plot=", "no file is named"),
    ("benchmark result.json", "result files follow --compare"),
    ("benchmark --data_dir=x --phase=t() --backbones=mobilnet", "did you mean 'mobilenet'"),
    ("benchmark --data_dir=x --batch_sizes=16,many", "allowed: whole numbers"),
    (
        "benchmark --data_dir=x --phase=t() --compare_baselines --baselines=fits",
        "did you mean 'fit'",
    ),
    ("benchmark --data_dir=x --out=taken.csv", "allowed: a file that ends in .json, or a folder"),
    ("benchmark --plot=a.png", "--plot has no use here; it goes with --compare"),
    ("benchmark --seeds=3", "--seeds has no use here; it goes with --compare_baselines"),
    ("benchmark --compare --out=a.json b.json", "--out has no use with --compare"),
    ("benchmark --compare --repeats=3 a.json", "it goes alone or with --compare_baselines"),
    ("benchmark --compare --self_test", "--self_test; allowed: one of them"),
    ("doctor", "no images are named; give --data_dir"),
    ("doctor --dataset=solar_cells --write_manifest=a.csv", "--write_manifest lists files, and"),
    ("doctor --manifest=list.csv --write_manifest=link.csv", "is the manifest that is read, which"),
    ("evaluate", "--run_dir is missing"),
    ("evaluate --compare run", "--compare takes two runs or more"),
    ("evaluate --compare run --noplain", "--compare takes two runs or more"),
    ("evaluate --compare run run --abstain=0", "--abstain has no use with --compare"),
    ("evaluate --compare a b --price_per_hour=0", "--price_per_hour has no use with --compare"),
    ("evaluate RUN --positive_class=blue", "--positive_class and --min_recall go together"),
    ("evaluate RUN --min_recall=0.9", "--positive_class and --min_recall go together"),
    ("evaluate RUN --positive_class=a --min_recall=0", "allowed: a number, above 0, up to 1"),
    ("evaluate RUN --positive_class=a --min_recall=1.1", "allowed: a number, above 0, up to 1"),
    ("evaluate RUN --abstain=1.5", "allowed: a number, 0 to 1"),
    ("evaluate RUN --abstain=most", "allowed: a number"),
    ("evaluate RUN --plain --abstain=0", "--plain and --abstain; allowed: one of them"),
    ("evaluate RUN --split_seed=3", "--split_seed requires other data"),
    ("evaluate RUN another", "'another' is no flag; runs follow --compare"),
    ("evaluate RUN --compare another", "--run_dir has no use with --compare"),
    ("evaluate RUN --price_per_hour=0", "has no use without --report; give --report"),
    ("export", "--run_dir is missing"),
    ("export RUN --out=o", "--format is missing; allowed: saved_model, litert, onnx"),
    ("export RUN --format=onnx", "--out is missing; name the folder to make"),
    ("export RUN --format=tflite", "(did you mean 'litert'?); allowed: saved_model, litert, onnx"),
    ("export RUN --precision=int4", "'int4' does not exist (did you mean 'int8'?)"),
    ("export RUN --out=o --format=onnx --precision=float32", "litert; omit it, as onnx is float32"),
    ("export RUN --out=o --format=onnx --min_agreement=99.5", "'99.5'; allowed: a number, 0 to 1"),
    ("export RUN --out=o --format=onnx --split_seed=3", "--split_seed requires other data"),
    ("predict a.jpg --tta=1", "allowed: a whole number, 2 or more, or flip"),
    ("predict a.jpg --tta=mirror", "allowed: a whole number, 2 or more, or flip"),
    ("predict a.jpg --tta=4", "give --run_dir, or --tta=flip"),
    ("predict a.jpg --explain", "--explain draws into a plot; give --plot=FILE.png with it"),
    ("predict --nooverwrite", "no image is named"),
    ("predict a.jpg --overwrite", "--overwrite has no use without --out"),
    ("predict a.jpg --out=a.txt", "a.txt: ending '.txt' does not exist"),
    ("predict a.jpg --out=answers", "allowed: .csv, .jsonl"),
    ("predict a.jpg --out=a.csv --format=json", "--format has no use with --out"),
    ("predict a.jpg --out=a.csv --precision=float16", "allowed: float32, auto"),
    ("serve", "--run_dir is missing"),
    ("serve RUN image.jpg", "'image.jpg' requires --load_test"),
    ("serve RUN --connections=3", "--connections requires --load_test"),
    ("serve RUN --load_test", "no image is named"),
    ("serve RUN --port=70000", "allowed: a whole number, 0 to 65535"),
    ("serve RUN --allow_host=a.example:80", "allowed: names such as a.example"),
    ("serve RUN --allow_host=http://a", "--allow_host=http://a; allowed: names"),
    ("train --data_dir=gone", "gone does not exist"),
    ("train --manifest=gone.csv", "gone.csv does not exist"),
    ("serve RUN --max_queue_size=3", "less than --max_files=32"),
    ("serve RUN --max_mb=0", "--max_mb=0: '0'; allowed: a number, above 0"),
    ("serve RUN --timeout_seconds=0", "allowed: a number, above 0"),
    ("serve RUN --precision=bf16", "allowed: float32, auto"),
)
USER_ERRORS = (
    ("benchmark --compare missing.json", "missing.json"),
    ("doctor --data_dir=gone", "does not exist"),
    ("evaluate --run_dir=gone --plain", "holds no run"),
    ("evaluate RUN --abstain=0.5 --report=.", "holds a report.html that is not from a report"),
    ("export --run_dir=gone --format=onnx --out=o", "holds no run"),
    ("predict RUN a.jpg --out=gone/a.csv", "gone/a.csv: can't be written (No such file or dir"),
    ("predict RUN a.jpg --out=taken.csv", "taken.csv exists; name another file, or add --overwrit"),
    ("predict RUN nowhere --out=b.csv", "nowhere: no such file or folder"),
    ("predict http://127.0.0.1/a.jpg", "127.0.0.1, which is not on the public internet; --allow_p"),
    (
        "predict http://me:pw@example.org/a.jpg",
        "http://***@example.org/a.jpg: holds a user name or",
    ),
    ("predict --run_dir=gone a.jpg --out=b.csv", "--run_dir=gone: holds no run"),
    ("serve --run_dir=gone --load_test a.jpg", "holds no run"),
    ("serve RUN --load_test http://a/b.jpg", "http://a/b.jpg can't be read"),
    ("serve RUN --load_test links", "; --load_test takes files and folders"),
    ("train --data_dir=gone --phase=t()", "gone does not exist"),
    ("train --manifest=gone.csv --phase=t()", "gone.csv does not exist"),
    ("train --data_dir=links --phase=t() --init_from=gone", "gone: holds no run with a model"),
)


@pytest.fixture
def places(made_run, tmp_path, monkeypatch):
    """The working directory, with what the commands name; returns its content as it is now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(made_run)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "nowhere.jpg").symlink_to("gone")
    for name in ("taken.csv", "list.csv", "report.html"):
        (tmp_path / name).write_text("path,label\na.jpg,cats\nb.jpg,dogs\n")
    (tmp_path / "link.csv").symlink_to("list.csv")

    def content():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    return content


@pytest.mark.parametrize(
    ("command", "message", "error"),
    [
        *((*mistake, FlagError) for mistake in FLAG_ERRORS),
        *((*mistake, UserError) for mistake in USER_ERRORS),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(call, places, monkeypatch, command, message, error):
    before = places()
    if error is FlagError:
        monkeypatch.setattr(tensorflow_setup, "start_tensorflow", None)
    with pytest.raises(error, match=re.escape(message)) as raised:
        call(*command.replace("RUN", "--run_dir=run").split())
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    assert places() == before
