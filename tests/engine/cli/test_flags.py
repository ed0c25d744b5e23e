"""Flags: files and what overrides them, values and what is said about wrong ones, help."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.cli import flags as cli_flags
from tests.bin.programs import program
from tests.engine.cli.flagged import parse, recipe, refused


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
def test_the_last_source_of_images_holds(arguments, source, location):
    found = cli_flags.data_spec(parse(*arguments))
    assert (found.source, found.location) == (source, location)


def test_paths_mean_what_they_mean_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = cli_flags.data_spec(parse("--train_dir=a", "--val_dir=~/v", "--test_dir=/t"))
    assert found.location == str(tmp_path / "a")
    assert (found.validation_location, found.test_location) == ("/home/me/v", "/t")
    assert recipe("--weights=w.h5", "--init_from=r").weights == str(tmp_path / "w.h5")
    assert recipe("--weights=none").weights == "none"


PLACES = {
    "train": ("run_dir", "show_augmented"),
    "evaluate": ("run_dir", "report"),
    "predict": ("run_dir", "plot", "out"),
    "export": ("run_dir", "out"),
    "serve": ("run_dir",),
    "doctor": ("out", "write_manifest"),
    "benchmark": ("out", "plot"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_tilde_means_home_whatever_the_flag(name, monkeypatch):
    """Shells leave it as it is behind `--flag=`; a folder of that name would be made."""

    class ReadError(Exception):
        """Ends a program when its flags have been read."""

    def read(*arguments, **settings):
        raise ReadError(whole(*arguments, **settings))

    whole = cli_flags.parse
    monkeypatch.setattr(cli_flags, "parse", read)
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(ReadError) as caught:
        program(name).main([f"bin/{name}", *(f"--{flag}=~/x" for flag in PLACES[name])])
    (parsed,) = caught.value.args
    assert {flag: getattr(parsed, flag) for flag in PLACES[name]} == dict.fromkeys(
        PLACES[name], "/home/me/x"
    )


@pytest.mark.parametrize("flag", ["--val_dir=/a", "--test_dir=/a"])
@pytest.mark.parametrize("other", ["", "--data_dir=/b"])
def test_a_folder_that_goes_with_train_dir_does_not_stand_alone(flag, other):
    with pytest.raises(cli_flags.FlagError, match=r"stands alone; give --train_dir"):
        cli_flags.data_spec(parse(*filter(None, (flag, other))))


def test_a_root_goes_with_a_manifest():
    for other in ("", "--data_dir=/b"):
        with pytest.raises(cli_flags.FlagError, match=r"stands alone; give --manifest with it"):
            cli_flags.data_spec(parse(*filter(None, ("--manifest_root=/a", other))))
    found = cli_flags.data_spec(parse("--manifest=a.csv", "--manifest_root=images"))
    assert os.path.isabs(found.manifest_root)


def test_an_empty_place_is_refused():
    with pytest.raises(cli_flags.FlagError, match="--data_dir= is empty"):
        cli_flags.data_spec(parse("--data_dir="))


def test_no_images_are_named():
    assert cli_flags.data_spec(parse("--split_seed=1")) is None
    assert "--flagfile=solar_cells.flags" in refused(read=lambda: cli_flags.recipe(parse()))


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
    assert (found.precision, found.xla, found.cache, found.gradient_accumulation_steps) == (
        "auto",
    ) * 3 + (1,)
    flags = (
        "--precision=mixed_float16",
        "--xla=on",
        "--cache=features",
        "--gradient_accumulation_steps=8",
    )
    found = recipe(*flags, "--phase=a(views=4, refresh=0.25)")
    assert (found.precision, found.xla, found.cache) == ("mixed_float16", "on", "features")
    assert found.gradient_accumulation_steps == 8
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
        (
            "--gradient_accumulation_steps=0",
            "--gradient_accumulation_steps=0: '0'; allowed: a whole number, 1 or more",
        ),
        (
            "--gradient_accumulation_steps=5",
            "gradient_accumulation_steps=5; allowed: a number that divides batch_size=32",
        ),
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
        ("images", "'images' is no flag, and train takes nothing else"),
    ],
)  # fmt: skip
def test_a_wrong_flag_or_value_is_told_from_a_right_one(flag, message):
    assert message in refused(flag)


def test_data_flags_of_other_programs_are_checked_alike():
    message = refused(
        "--data_dir=x", "--validation_fraction=0", read=lambda *a: cli_flags.data_spec(parse(*a))
    )
    assert "validation_fraction=0.0; allowed" in message


@settings(deadline=None, max_examples=200)
@given(
    name=some.sampled_from(cli_flags.of_a_run()),
    value=some.text(max_size=9)
    | some.text("0123456789.exXkMGiB- ", max_size=9)
    | some.sampled_from(["9" * 400, "9" * 400 + "GB", "9" * 5000, "1x" + "9" * 5000]),
)
def test_any_value_is_taken_or_refused_in_one_line(name, value):
    try:
        parse(f"--{name}={value}")
    except cli_flags.FlagError as error:
        message = str(error)
    else:
        return
    assert len(message.splitlines()) == 1


def test_words_behind_two_dashes_are_no_flags(write):
    found = cli_flags.parse("...", cli_flags.RUN, ["train", "--seed=1", "--", "--dropout=1"])
    assert found.given == ["seed"]
    file = write("--phase=a()")
    found = cli_flags.parse("...", cli_flags.RUN, ["train", file, "--", "--phase=b()"])
    assert found.phase == ["a()"]


def test_words_stand_where_they_may_and_after_two_dashes_all_are_words():
    def define(values):
        cli_flags.whole(values, "top", 5, "how many", least=1)

    usage = "[flags] FILE ..."
    found = cli_flags.parse(usage, [define], ["predict", "a.jpg", "--top=3", "b.jpg"])
    assert (found.words, found.top) == (["a.jpg", "b.jpg"], 3)
    found = cli_flags.parse(usage, [define], ["predict", "--", "--top=3", "--flagfile=x"])
    assert (found.words, found.top) == (["--top=3", "--flagfile=x"], 5)
