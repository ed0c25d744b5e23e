"""Flags: files and what overrides them, values and what is said about wrong ones, help."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.cli import command_line, flag_types
from engine.cli import flags as cli_flags
from engine.cli.parsed_flags import FlagError
from engine.core.options import Option
from tests.bin.programs import program
from tests.engine.cli.flagged import parse, recipe, refused


@pytest.mark.parametrize(
    ("arguments", "source", "location"),
    [
        (["--data_dir=/a"], "folders", "/a"),
        (["--data_dir=/b", "--data_dir=/a"], "folders", "/a"),
        (["--train_dir", "/b", "--val_dir=/c"], "split_folders", "/b"),
        (["--manifest=/m.csv"], "manifest", "/m.csv"),
        (["--manifest=gs://bucket/m.csv"], "manifest", "gs://bucket/m.csv"),
    ],
)
def test_source_of_images_is_read(arguments, source, location):
    spec = cli_flags.build_data_spec(parse(*arguments))
    assert (spec.source, spec.location) == (source, location)


def test_paths_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    spec = cli_flags.build_data_spec(parse("--train_dir=a", "--val_dir=~/v", "--test_dir=/t"))
    assert spec.location == str(tmp_path / "a")
    assert (spec.validation_location, spec.test_location) == ("/home/me/v", "/t")
    assert recipe("--weights=w.h5", "--init_from=r").weights == str(tmp_path / "w.h5")
    assert recipe("--weights=none").weights == "none"


PLACES = {
    "train": ("run_dir",),
    "evaluate": ("run_dir", "report"),
    "predict": ("run_dir", "plot", "out"),
    "export": ("run_dir", "out"),
    "serve": ("run_dir",),
    "doctor": ("write_manifest",),
    "benchmark": ("out", "plot"),
}


@pytest.mark.parametrize("name", PLACES)
def test_tilde_in_a_path_is_the_home_folder(name, monkeypatch):
    """Shells leave it as it is behind `--flag=`; a folder of that name would be made."""

    class ReadError(Exception):
        """Ends a program when its flags have been read."""

    def read(*arguments, **settings):
        raise ReadError(whole(*arguments, **settings))

    whole = command_line.parse
    monkeypatch.setattr(command_line, "parse", read)
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(ReadError) as caught:
        program(name).main([f"bin/{name}", *(f"--{flag}=~/x" for flag in PLACES[name])])
    (parsed,) = caught.value.args
    assert {flag: getattr(parsed, flag) for flag in PLACES[name]} == dict.fromkeys(
        PLACES[name], Path("/home/me/x")
    )


@pytest.mark.parametrize("flag", ["--val_dir=/a", "--test_dir=/a"])
@pytest.mark.parametrize("other", ["", "--data_dir=/b"])
def test_val_dir_and_test_dir_require_train_dir(flag, other):
    with pytest.raises(FlagError, match="requires --train_dir; give both"):
        cli_flags.build_data_spec(parse(*filter(None, (flag, other))))


def test_manifest_root_requires_manifest():
    for other in ("", "--data_dir=/b"):
        with pytest.raises(FlagError, match="requires --manifest; give both"):
            cli_flags.build_data_spec(parse(*filter(None, ("--manifest_root=/a", other))))
    spec = cli_flags.build_data_spec(parse("--manifest=a.csv", "--manifest_root=images"))
    assert os.path.isabs(spec.manifest_root)


@pytest.mark.parametrize(
    ("name", "flag"),
    [(name, flag) for name in PLACES for flag in PLACES[name]] + [("doctor", "out")],
)
def test_empty_path_is_refused_or_omits_what_is_written(call, name, flag):
    with pytest.raises(FlagError) as caught:
        call(name, f"--{flag}=")
    assert (str(caught.value) == f"--{flag}= is empty; give a path, or omit it") == (
        flag in ("run_dir", "out")
    )


def test_empty_folder_is_refused():
    with pytest.raises(FlagError, match="--data_dir= is empty"):
        cli_flags.build_data_spec(parse("--data_dir="))


def test_missing_source_of_images_is_refused():
    assert cli_flags.build_data_spec(parse("--split_seed=1")) is None
    assert "--flagfile=solar_cells.flags" in refused(read=lambda: cli_flags.build_recipe(parse()))


def test_defaults_beside_phases_are_the_blog_posts():
    result = recipe("--backbone=inception_v3")
    assert (result.batch_size, result.dropout, result.label_smoothing) == (32, 0, 0)
    assert result.image_size == (299, 299)
    assert [str(call) for call in result.augment] == [
        "rotate(30)", "shift(0.2)", "shear(0.2)", "zoom(0.2)", "flip"
    ]  # fmt: skip


def test_flags_reach_the_recipe():
    result = recipe("--precision=mixed_float16", "--xla=on", "--gradient_accumulation_steps=8")
    values = (result.precision, result.xla, result.cache, result.gradient_accumulation_steps)
    assert values == ("mixed_float16", "on", "auto", 8)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0), ("123", 123), ("123B", 123), ("4GB", 4_000_000_000), ("4gb", 4_000_000_000),
        ("4G", 4_000_000_000), ("4GiB", 2**32), ("1.5 MiB", 3 * 2**19), ("2kB", 2000),
        ("2KiB", 2048), ("1TB", 10**12),
    ],
)  # fmt: skip
def test_bytes_are_parsed_with_their_unit(text, count):
    assert parse(f"--cache_memory={text}").cache_memory == count


@pytest.mark.parametrize(("text", "size"), [("96", (96, 96)), ("192x256", (192, 256))])
def test_image_size_is_one_number_or_two(text, size):
    assert recipe(f"--image_size={text}").image_size == size


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--bacth_size=3", "--bacth_size does not exist (did you mean 'batch_size'?)"),
        ("--flag_file=x", "--flag_file does not exist (did you mean 'flagfile'?)"),
        ("--epochs=3", "--epochs is for a preset, and --phase says all of its own, as in --phase"),
        ("--epochs=0", "--epochs=0: '0'; allowed: a whole number, 1 or more"),
        ("--num_epochs=3", "--num_epochs does not exist: it belongs to a phase, as --phase='trans"),
        ("--preset=quik", "'quik' does not exist (did you mean 'quick'?); allowed: standard, quic"),
        ("--budget=10", "--budget=10: '10'; allowed: a time with its unit, such as 90s, 10m or 1"),
        ("--budget=0s", "allowed: a time with its unit"),
        ("--lr=1e-3", "as --phase='transfer(learning_rate=1e-3)'; bin/train --help lists all"),
        ("--weight-decay=1", "as --phase='transfer(weight_decay=0.01)'"),
        ("--phase=a(optimizer=adamW)", "'adamW' does not exist (did you mean 'adamw'?)"),
        ("--xla=yes", "'yes' does not exist; allowed: auto, on, off"),
        ("--cache_memory=lots", "'lots'; allowed: bytes with a unit, such as 500MB or 4GiB"),
        (f"--cache_memory={'9' * 400}", "allowed: bytes with a unit"),
        (f"--{'a' * 5000}=1", "aaa does not exist; bin/train --help lists all"),
        ("--batch_size=0", "--batch_size=0: '0'; allowed: a whole number, 1 or more, or auto"),
        ("--gradient_accumulation_steps=5", "allowed: a number that divides batch_size=32"),
        ("--backbone=inceptionv3", "(did you mean 'inception_v3'?)"),
        ("--seed=a", "--seed=a: 'a'; allowed: a whole number, 0 to 4294967295"),
        ("--seed=4294967296", "allowed: a whole number, 0 to 4294967295"),
        ("--dropout=much", "--dropout=much: 'much'; allowed: a number, 0 or more"),
        ("--dropout=1", "--dropout=1: '1'; allowed: a number, 0 or more, below 1"),
        ("--image_size=1x2x3", "allowed: H or HxW in pixels"),
        ("--deterministic=maybe", "--deterministic=maybe: "),
        ("--nodeterministic=1", "does not take an argument"),
        ("--batch_size", "Missing value for flag --batch_size"),
        ("--phase=a(warmup=1)", "option 'warmup' does not exist (did you mean 'warmup_steps'?)"),
        ("--phase=a(optimizer=adamm)", "(did you mean 'adam'?)"),
        ("--augment=rotate(999)", "degrees=999; allowed: rotate(degrees from 0 to 180)"),
        ("cats_dogs.flags", "write --flagfile=cats_dogs.flags"),
        ("images", "'images' is no flag, and train takes nothing else"),
    ],
)  # fmt: skip
def test_wrong_flag_or_value_is_refused(flag, message):
    assert message in refused(flag)


def test_data_flags_without_a_recipe_are_checked():
    message = refused(
        "--data_dir=x",
        "--validation_fraction=0",
        read=lambda *a: cli_flags.build_data_spec(parse(*a)),
    )
    assert "validation_fraction=0.0; allowed" in message


@settings(deadline=None, max_examples=200)
@given(
    name=some.sampled_from(command_line.flag_names(cli_flags.RUN)),
    value=some.text(max_size=9)
    | some.text("0123456789.exXkMGiB- ", max_size=9)
    | some.sampled_from(["9" * 400, "9" * 400 + "GB", "9" * 5000, "1x" + "9" * 5000]),
)
def test_any_value_is_accepted_or_refused_in_one_line(name, value):
    try:
        parse(f"--{name}={value}")
    except FlagError as error:
        message = str(error)
    else:
        return
    assert len(message.splitlines()) == 1


def test_words_after_two_dashes_are_no_flags(write):
    flags = command_line.parse("...", cli_flags.RUN, ["train", "--seed=1", "--", "--dropout=1"])
    assert flags.explicit == ["seed"]
    file = write("--phase=a()")
    flags = command_line.parse("...", cli_flags.RUN, ["train", file, "--", "--phase=b()"])
    assert flags.phase == ["a()"]


def test_arguments_may_stand_among_flags_where_the_usage_allows():
    def define(values):
        flag_types.define(values, "top", 5, flag_types.Number(int, Option()), "how many")

    usage = "[flags] FILE ..."
    flags = command_line.parse(usage, [define], ["predict", "a.jpg", "--top=3", "b.jpg"])
    assert (flags.arguments, flags.top) == (["a.jpg", "b.jpg"], 3)
    flags = command_line.parse(usage, [define], ["predict", "--", "--top=3", "--flagfile=x"])
    assert (flags.arguments, flags.top) == (["--top=3", "--flagfile=x"], 5)
