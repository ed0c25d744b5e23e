"""Flags: files and what overrides them, values and what is said about wrong ones, help."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import _flags
import _train_flags
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.optimizers import OPTIMIZERS
from engine.schedules import SCHEDULES
from engine.specs import DataSpec
from pipelines.augment import AUGMENTATIONS

ROOT = Path(__file__).resolve().parents[2]


def parse(*arguments) -> _flags.Parsed:
    return _flags.parse("[flags]", _flags.RUN, ["bin/train", *map(str, arguments)])


def recipe(*arguments):
    return _flags.recipe(parse("--data_dir=x", *arguments))


def refused(*arguments, read=recipe) -> str:
    with pytest.raises(_flags.FlagError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    """Writes a flag file and gives the flag that names it."""

    def make(content: str | bytes, name: str = "my.flags") -> str:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return f"--flagfile={tmp_path / name}"

    return make


def phases(found) -> list[str]:
    return [phase.name for phase in found.phases]


def test_a_flag_file_has_a_flag_on_each_line(write):
    found = recipe(
        write(
            "# a comment\n\n--batch_size=8\n  --seed=3  \r\n// another\n"
            "--phase=a(trainable=head, epochs=2)\n--phase=b(epochs=1)\n--deterministic\n"
        )
    )
    assert (found.batch_size, found.seed, found.deterministic) == (8, 3, True)
    assert phases(found) == ["a", "b"]


def test_a_flag_file_may_stand_before_flags_that_override_it(write):
    file = write("--batch_size=8\n--deterministic\n--augment=flip\n")
    found = recipe(file, "--batch_size=4", "--nodeterministic")
    assert (found.batch_size, found.deterministic, str(found.augment[0])) == (4, False, "flip")
    assert recipe("--batch_size=4", file).batch_size == 8, "the last holds"


def test_a_phase_on_the_command_line_takes_the_place_of_the_files(write):
    file = write("--phase=a(epochs=1)\n--phase=b(epochs=1)\n")
    assert phases(recipe(file, "--phase=c()")) == ["c"]
    assert phases(recipe("--phase=c()", "--phase=d()", file)) == ["c", "d"]
    assert phases(recipe(file, "--phase", "c()")) == ["c"]


def test_flag_files_may_hold_flag_files(write):
    inner = write("--seed=3\n--batch_size=8\n--phase=a()\n", "inner.flags")
    outer = write(f"{inner}\n--seed=4\n", "outer.flags")
    found = recipe(outer)
    assert (found.seed, found.batch_size, phases(found)) == (4, 8, ["a"])
    assert phases(recipe(outer, "--phase=b()")) == ["b"], "the inner file's is a file's too"


def test_a_flag_file_that_holds_itself_is_read_once(write, tmp_path):
    assert recipe(write(f"--flagfile={tmp_path / 'my.flags'}\n--seed=3\n")).seed == 3


def test_a_flag_file_may_be_named_by_the_next_word(write):
    assert recipe(*write("--seed=3\n").split("=")).seed == 3


def test_a_mark_at_the_beginning_as_windows_writes_it(write):
    assert recipe(write("\ufeff# comment\r\n--seed=3\r\n".encode())).seed == 3
    assert recipe(write("\ufeff--seed=3\n".encode())).seed == 3


def test_flag_files_are_utf8_wherever_they_are_read(write):
    code = "import sys, _flags; print(ascii(_flags.parse('', _flags.RUN, sys.argv).data_dir))"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, write("--data_dir=Bäume\n")],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'bin'}", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "'B\\xe4ume'\n"


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--flagfile=cats_dgos.flags", "such file or directory) (did you mean 'cats_dogs.flags'"),
        ("--flagfile=", "can't be read"),
        ("--flagfile", "can't be read"),
        (f"--flagfile={ROOT}", "Is a directory"),
    ],
)  # fmt: skip
def test_a_flag_file_that_is_not_there(flag, reason):
    message = refused(flag)
    assert reason in message
    assert "Unfreeze brings blog.flags, cats_dogs.flags" in message


def test_a_flag_file_that_is_no_text(write):
    assert "it is no text in UTF-8" in refused(write(b"--data_dir=B\xe4ume\n"))


def test_a_flag_file_that_holds_what_no_argument_can(write):
    assert "it holds a zero byte" in refused(write("--data_dir=~\0\n"))


def test_a_flag_file_without_an_end():
    assert "it is larger than 1,048,576 bytes" in refused("--flagfile=/dev/zero")


def test_a_long_flag_file_is_read_as_fast_as_a_short_one(write):
    assert recipe(write("--seed=3\n" * 100_000)).seed == 3


def test_a_comment_behind_a_value_is_seen(write):
    assert "--seed=3 # mine: '3 # mine'; allowed: a whole number" in refused(
        write("--seed=3 # mine")
    )


@pytest.mark.parametrize("name", [path.name for path in ROOT.glob("*.flags")])
def test_every_flag_file_that_is_brought_makes_a_recipe(name):
    assert _flags.recipe(parse(f"--flagfile={ROOT / name}")).phases


def test_the_name_of_the_run_comes_from_the_flag_file():
    assert _flags.flagfile_name(["train", "--flagfile=a/b.flags", "--seed=1"]) == "b"
    assert _flags.flagfile_name(["train", "--flagfile", "a/b.flags"]) == "b"
    assert _flags.flagfile_name(["train", "--seed=1"]) is None


@pytest.mark.parametrize(
    ("arguments", "source", "location"),
    [
        (["--data_dir=/a", "--dataset=cats"], "tfds", "cats"),
        (["--dataset=cats", "--data_dir=/a"], "folders", "/a"),
        (["--data_dir=/a", "--train_dir", "/b", "--val_dir=/c"], "split_folders", "/b"),
        (["--manifest=/m.csv"], "manifest", "/m.csv"),
        (["--manifest=gs://bucket/m.csv"], "manifest", "gs://bucket/m.csv"),
    ],
)
def test_the_last_source_of_pictures_holds(arguments, source, location):
    found = _flags.data_spec(parse(*arguments))
    assert (found.source, found.location) == (source, location)


def test_a_source_behind_a_flag_file_overrides_it(write):
    found = _flags.data_spec(parse(write("--dataset=cats\n--split_seed=3\n"), "--data_dir=/a"))
    assert found == DataSpec("folders", "/a", split_seed=3)


def test_paths_mean_what_they_mean_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = _flags.data_spec(parse("--train_dir=a", "--val_dir=~/v", "--test_dir=/t"))
    assert found.location == str(tmp_path / "a")
    assert (found.validation_location, found.test_location) == ("/home/me/v", "/t")
    assert recipe("--weights=w.h5", "--init_from=r").weights == str(tmp_path / "w.h5")
    assert recipe("--weights=none").weights == "none"


@pytest.mark.parametrize("flag", ["--val_dir=/a", "--test_dir=/a"])
@pytest.mark.parametrize("other", ["", "--data_dir=/b"])
def test_a_folder_that_goes_with_train_dir_does_not_stand_alone(flag, other):
    with pytest.raises(_flags.FlagError, match=r"stands alone; give --train_dir"):
        _flags.data_spec(parse(*filter(None, (flag, other))))


def test_a_root_goes_with_a_manifest():
    for other in ("", "--data_dir=/b"):
        with pytest.raises(_flags.FlagError, match=r"stands alone; give --manifest with it"):
            _flags.data_spec(parse(*filter(None, ("--manifest_root=/a", other))))
    found = _flags.data_spec(parse("--manifest=a.csv", "--manifest_root=pictures"))
    assert os.path.isabs(found.manifest_root)


def test_an_empty_place_is_refused():
    with pytest.raises(_flags.FlagError, match="--data_dir= is empty"):
        _flags.data_spec(parse("--data_dir="))


def test_no_pictures_are_named():
    assert _flags.data_spec(parse("--split_seed=1")) is None
    assert "--flagfile=solar_cells.flags" in refused(read=lambda: _flags.recipe(parse()))


def test_the_default_is_the_blogs_pair():
    found = recipe("--backbone=inception_v3")
    assert [(p.name, p.trainable, p.optimizer, p.learning_rate) for p in found.phases] == [
        ("transfer", "head", "rmsprop", 1e-3),
        ("fine_tune", "mixed9", "sgd", 1e-4),
    ]
    assert found.phases[1].options == {"momentum": 0.9}
    assert found.image_size == (299, 299)
    assert [str(call) for call in found.augment] == [
        "rotate(30)", "shift(0.2)", "shear(0.2)", "zoom(0.2)", "flip"
    ]  # fmt: skip


def test_what_is_kept_and_how_it_is_computed():
    found = recipe()
    assert (found.precision, found.xla, found.cache, found.accumulate) == ("auto",) * 3 + (1,)
    flags = ("--precision=mixed_float16", "--xla=on", "--cache=features", "--accumulate=8")
    found = recipe(*flags, "--phase=a(views=4, refresh=0.25)")
    assert (found.precision, found.xla, found.cache) == ("mixed_float16", "on", "features")
    assert found.accumulate == 8
    assert (found.phases[0].views, found.phases[0].refresh) == (4, 0.25)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0), ("123", 123), ("123B", 123), ("4GB", 4_000_000_000), ("4gb", 4_000_000_000),
        ("4G", 4_000_000_000), ("4GiB", 2**32), ("1.5 MiB", 3 * 2**19), ("2kB", 2000),
        ("2KiB", 2048), ("1TB", 10**12),
    ],
)  # fmt: skip
def test_bytes(text, count):
    assert parse(f"--cache_memory={text}").cache_memory == count


@pytest.mark.parametrize(("text", "size"), [("96", (96, 96)), ("192x256", (192, 256))])
def test_image_sizes(text, size):
    assert recipe(f"--image_size={text}").image_size == size


def test_a_phase_without_epochs_is_left_out_by_the_run():
    found = recipe("--phase=a(epochs=0)", "--phase=b(epochs=1)")
    assert [phase.epochs for phase in found.phases] == [0, 1]
    assert "epochs=0 in every phase (a)" in refused("--phase=a(epochs=0)")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--bacth_size=3", "--bacth_size is no flag (did you mean 'batch_size'?)"),
        ("--flag_file=x", "--flag_file is no flag (did you mean 'flagfile'?)"),
        ("--xyz", "--xyz is no flag; bin/train --help lists all"),
        ("--precision=float61", "exist (did you mean 'float32'?); allowed: auto, float32, mixed"),
        ("--xla=yes", "'yes' does not exist; allowed: auto, on, off"),
        ("--cache=feature", "(did you mean 'features'?); allowed: auto, none, pixels, features"),
        ("--cache_memory=lots", "'lots'; allowed: bytes with a unit, such as 500MB or 4GiB"),
        (f"--cache_memory={'9' * 400}", "allowed: a million terabytes at most"),
        (f"--{'a' * 5000}=1", "aaa is no flag; bin/train --help lists all"),
        ("--cache_memory=-1GB", "'-1GB'; allowed: bytes with a unit"),
        ("--cache_memory=4EB", "'4EB'; allowed: bytes with a unit"),
        ("--accumulate=0", "--accumulate=0: '0'; allowed: a whole number, 1 or more"),
        ("--accumulate=5", "accumulate=5; allowed: a number that divides batch_size=32"),
        ("--phase=a(views=0)", "views=0; allowed: 1 or more"),
        ("--phase=a(refresh=2)", "refresh=2.0; allowed: a share from 0 to 1"),
        ("--backbone=inceptionv3", "(did you mean 'inception_v3'?)"),
        ("--seed=a", "--seed=a: 'a'; allowed: a whole number, 0 or more"),
        ("--seed=1.5", "'1.5'; allowed: a whole number"),
        ("--seed=-1", "'-1'; allowed: a whole number, 0 or more"),
        ("--seed=4294967296", "allowed: 0 to 2**32 - 1"),
        ("--batch_size=0", "--batch_size=0: '0'; allowed: a whole number, 1 or more"),
        ("--threads=0", "allowed: a whole number, 1 or more"),
        ("--limit_examples=0", "allowed: a whole number, 1 or more"),
        ("--dropout=much", "--dropout=much: 'much'; allowed: a number, 0 or more"),
        ("--dropout=nan", "'nan'; allowed: a number"),
        ("--label_smoothing=inf", "'inf'; allowed: a number"),
        ("--validation_fraction=inf", "'inf'; allowed: a number"),
        ("--validation_fraction=1.5", "validation_fraction=1.5; allowed: a share"),
        ("--dropout=1", "dropout=1.0; allowed: 0 or more, below 1"),
        ("--image_size=0", "allowed: H or HxW in pixels"),
        ("--image_size=1x2x3", "allowed: H or HxW in pixels"),
        ("--deterministic=maybe", "--deterministic=maybe: "),
        ("--nodeterministic=1", "does not take an argument"),
        ("--batch_size", "Missing value for flag --batch_size"),
        ("--phase=a(epochs=x)", "epochs='x'; allowed: a whole number"),
        ("--phase=a(learning_rate=1e999)", "beyond all bounds"),
        ("--phase=a(learning_rate=nan)", "learning_rate='nan'; allowed: a number"),
        ("--phase=a(momentum=0.9)x", "expected '|' or the end"),
        ("--phase=a(warmup=1)", "option 'warmup' does not exist (did you mean 'warmup_steps'?)"),
        ("--phase=none", "holds 0 calls"),
        ("--phase=a(optimizer=adamm)", "(did you mean 'adam'?)"),
        ("--augment=rotat(3)", "(did you mean 'rotate'?)"),
        ("--augment=rotate(999)", "degrees=999; allowed: rotate(degrees from 0 to 180)"),
        ("cats_dogs.flags", "write --flagfile=cats_dogs.flags"),
        ("pictures", "'pictures' is no flag, and train takes nothing else"),
    ],
)  # fmt: skip
def test_a_wrong_flag_or_value_is_told_from_a_right_one(flag, message):
    assert message in refused(flag)


def test_data_flags_of_other_programs_are_checked_alike():
    message = refused(
        "--data_dir=x", "--validation_fraction=0", read=lambda *a: _flags.data_spec(parse(*a))
    )
    assert "validation_fraction=0.0; allowed" in message


lines = some.lists(
    some.builds("--seed={}".format, some.integers(0, 99))
    | some.builds("--dropout={!r}".format, some.floats(0, 0.9))
    | some.builds("--image_size={}x{}".format, some.integers(1, 99), some.integers(1, 99))
    | some.builds("--cache_memory={}{}".format, some.integers(0, 99), some.sampled_from(["", "MB"]))
    | some.builds("--phase={}(epochs=1)".format, some.sampled_from("abc"))
    | some.sampled_from(
        ["--deterministic", "--nodeterministic", "--xla=on", "--augment=flip|turn"]
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(before=lines, inner=lines, outer=lines, after=lines)
def test_flag_files_are_as_their_lines_in_their_place(before, inner, outer, after):
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "inner").write_text("\n".join(inner))
        (Path(place) / "outer").write_text("\n".join([f"--flagfile={place}/inner", *outer]))
        found = parse(*before, f"--flagfile={place}/outer", *after)
    own = any(line.startswith("--phase") for line in before + after)
    brought = [line for line in inner + outer if not (own and line.startswith("--phase"))]
    expected = parse(*before, *brought, *after)
    for name in _flags.of_a_run():
        assert getattr(found, name) == getattr(expected, name)
    assert found.given == expected.given


@settings(deadline=None, max_examples=60)
@given(lines)
def test_another_program_takes_from_flags_what_this_one_took(given):
    found = parse(*given)
    again = parse(*found.as_flags(_flags.of_a_run()))
    for name in _flags.of_a_run():
        assert getattr(again, name) == getattr(found, name)


@settings(deadline=None, max_examples=200)
@given(
    name=some.sampled_from(_flags.of_a_run()),
    value=some.text(max_size=9)
    | some.text("0123456789.exXkMGiB- ", max_size=9)
    | some.sampled_from(["9" * 400, "9" * 400 + "GB", "9" * 5000, "1x" + "9" * 5000]),
)
def test_any_value_is_taken_or_refused_in_one_line(name, value):
    try:
        parse(f"--{name}={value}")
    except _flags.FlagError as error:
        message = str(error)
    else:
        return
    assert len(message.splitlines()) == 1


def test_words_behind_two_dashes_are_no_flags(write):
    found = _flags.parse("...", _flags.RUN, ["train", "--seed=1", "--", "--dropout=1"])
    assert found.given == ["seed"]
    file = write("--phase=a()")
    found = _flags.parse("...", _flags.RUN, ["train", file, "--", "--phase=b()"])
    assert found.phase == ["a()"]


def test_words_stand_where_they_may_and_after_two_dashes_all_are_words():
    def define(values):
        _flags.whole(values, "top", 5, "how many", least=1)

    usage = "[flags] FILE ..."
    found = _flags.parse(usage, [define], ["predict", "a.jpg", "--top=3", "b.jpg"])
    assert (found.words, found.top) == (["a.jpg", "b.jpg"], 3)
    found = _flags.parse(usage, [define], ["predict", "--", "--top=3", "--flagfile=x"])
    assert (found.words, found.top) == (["--top=3", "--flagfile=x"], 5)


WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def program(name: str, *arguments) -> subprocess.CompletedProcess:
    """Runs a program where TensorFlow can't be imported: whoever tries fails."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, ROOT / "bin" / name, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "bin")},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_help_lists_all_flags_and_needs_no_tensorflow(name):
    done = program(name, "--help", "--nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bin/{name} [--flagfile=FILE] ")
    assert "--flagfile=FILE" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    if name != "train":
        return
    values = flags.FlagValues()
    for group in _flags.RUN:
        group(values)
    listed = [line.strip() for line in done.stdout.splitlines() if line.startswith("  --")]
    own = (
        "recipe",
        "overwrite",
        "checkpoint_minutes",
        "log_steps",
        "steps_per_call",
        "show_augmented",
    )
    for flag in [*values, *own]:
        assert any(line.startswith((f"--{flag}=", f"--[no]{flag}")) for line in listed), flag
    for allowed in (*OPTIMIZERS, *SCHEDULES, *AUGMENTATIONS, "inception_v3", "mixed_float16"):
        assert allowed in done.stdout
    assert "--seed=… (default: 0)" in listed


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", "--bacth_size=3", "did you mean 'batch_size'?"),
        ("train", "--batch_size=0", "allowed: a whole number, 1 or more"),
        ("train", "--data_dir=x --phase=a(epochs=-1)", "epochs=-1; allowed: 0 or more"),
        ("train", "--data_dir=x --augment=rotat(3)", "did you mean 'rotate'?"),
        ("train", "--flagfile=solar_cels.flags", "did you mean 'solar_cells.flags'?"),
        ("train", "--recipe=gone.json", "can't be read (No such file or directory)"),
        ("evaluate", "--format=jsn", "did you mean 'json'?"),
        ("predict", "--backbone=resnet5", "did you mean 'resnet50'?"),
    ],
)
def test_a_mistyped_flag_ends_with_2_and_needs_no_tensorflow(name, arguments, message):
    done = program(name, *arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{name}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, "one line"


def test_what_a_flag_file_holds_for_other_programs_is_passed_over(write):
    file = write("--data_dir=x\n--seed=3\n--nodeterministic\n--phase=a()\n--on_bad_image=fail\n")

    def read(*arguments):
        group = (_flags.define_pictures,)
        return _flags.parse("[flags]", group, ["bin/doctor", *arguments], _train_flags.names())

    assert _flags.data_spec(read(file)).location.endswith("/x")
    assert "'seed'" not in refused(file, "--nosuch=1", read=read)
    for flag in ("--seed=3", "--on_bad_image=skip"):
        assert refused(file, flag, read=read).startswith(f"{flag.split('=')[0]} is no flag")
    mistyped = write("--data_dir=x\n--sed=3\n", "other.flags")
    assert refused(mistyped, read=read).startswith("--sed is no flag")
