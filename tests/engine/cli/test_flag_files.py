"""Flag files: how they are read, and what overrides what."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli import train as cli_train
from engine.cli.parsed_flags import FlagError
from tests.engine.cli.flagged import ROOT, parse, phases, recipe, refused


def test_flag_file_has_a_flag_on_each_line(write):
    found = recipe(
        write(
            "# a comment\n\n--batch_size=8\n  --seed=3  \r\n// another\n"
            "--phase=a(trainable=head, epochs=2)\n--phase=b(epochs=1)\n--deterministic\n"
        )
    )
    assert (found.batch_size, found.seed, found.deterministic) == (8, 3, True)
    assert phases(found) == ["a", "b"]


def test_flags_after_a_flag_file_override_it(write):
    file = write("--batch_size=8\n--deterministic\n--augment=flip\n")
    found = recipe(file, "--batch_size=4", "--nodeterministic")
    assert (found.batch_size, found.deterministic, str(found.augment[0])) == (4, False, "flip")
    assert recipe("--batch_size=4", file).batch_size == 8, "the last holds"


def test_flag_file_may_be_a_word_of_its_own(write):
    found = recipe(*write("--seed=3\n--batch_size=8\n").split("="), "--batch_size=4")
    assert (found.seed, found.batch_size) == (3, 4)


def test_phases_on_the_command_line_replace_those_of_the_file(write):
    file = write("--phase=a(epochs=1)\n--phase=b(epochs=1)\n")
    assert phases(recipe(file, "--phase=c()")) == ["c"]
    assert phases(recipe("--phase=c()", "--phase=d()", file)) == ["c", "d"]
    assert phases(recipe(file, "--phase", "c()")) == ["c"]


def test_flag_file_may_name_another(write):
    inner = write("--seed=3\n--batch_size=8\n--phase=a()\n", "inner.flags")
    outer = write(f"{inner}\n--seed=4\n", "outer.flags")
    found = recipe(outer)
    assert (found.seed, found.batch_size, phases(found)) == (4, 8, ["a"])
    assert phases(recipe(outer, "--phase=b()")) == ["b"], "the inner file's is a file's too"


def test_flag_file_that_names_itself_is_read_once(write, tmp_path):
    flag, file = write(f"--flagfile={tmp_path / 'my.flags'}\n--seed=3\n").split("=")
    assert recipe(flag, file).seed == 3


def test_byte_order_mark_is_skipped(write):
    assert recipe(write("\ufeff# comment\r\n--seed=3\r\n".encode())).seed == 3
    assert recipe(write("\ufeff--seed=3\n".encode())).seed == 3


def test_flag_files_are_utf8_wherever_they_are_read(write):
    code = (
        "import sys; from engine.cli import command_line, flags; "
        "print(ascii(command_line.parse('', flags.RUN, sys.argv).data_dir))"
    )
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
        ("--flagfile=/dev/zero", "no text in UTF-8 of up to 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_unreadable_flag_file_is_refused_with_the_nearest_name(flag, reason):
    message = refused(flag)
    assert reason in message
    assert "Unfreeze comes with blog.flags, cats_dogs.flags" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"--data_dir=B\xe4ume\n", "it is no text in UTF-8"),
        ("--data_dir=~\0\n", "it is no text in UTF-8"),
    ],
)
def test_flag_file_that_is_no_text_is_refused(write, content, message):
    assert message in refused(write(content))


def test_long_flag_file_is_read_in_linear_time(write):
    assert recipe(write("--seed=3\n" * 20_000)).seed == 3


def test_comment_behind_a_value_is_refused(write):
    assert "--seed=3 # mine: '3 # mine'; allowed: a whole number" in refused(
        write("--seed=3 # mine")
    )


@pytest.mark.parametrize("name", [path.name for path in ROOT.glob("*.flags")])
def test_every_flag_file_of_the_repository_makes_a_recipe(name):
    assert cli_flags.build_recipe(parse(f"--flagfile={ROOT / name}")).phases


def test_flag_file_names_the_run():
    assert command_line.flagfile_name(["train", "--flagfile=a/b.flags", "--seed=1"]) == "b"
    assert command_line.flagfile_name(["train", "--flagfile", "a/b.flags"]) == "b"
    assert command_line.flagfile_name(["train", "--seed=1"]) is None


MANIFEST = "--manifest=/m.csv\n--manifest_root=/m\n"


@pytest.mark.parametrize(
    ("files", "flags", "location", "name"),
    [
        (MANIFEST, (), "/m.csv", "my"),
        (MANIFEST, ("--data_dir=/cats",), "/cats", "cats"),
        (MANIFEST, ("--manifest=/n",), "/n", "n"),
        ("--train_dir=/a\n--val_dir=/b\n--dataset=x\n", ("--data_dir=/cats",), "/cats", "cats"),
        ("--seed=3\n", ("--data_dir=/cats",), "/cats", "my"),
        (MANIFEST + "--flagfile={}\n", (), "/inner", "my"),
        ("--flagfile={}\n--dataset=cats\n", (), "cats", "my"),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["file first", "file last"])
def test_source_of_the_command_line_replaces_those_of_files(
    write, files, flags, location, name, first
):
    file = write(files.format(write("--data_dir=/inner\n", "inner.flags").split("=")[1]))
    flags = ("--phase=a()", *flags)
    given = (file, *flags) if first else (*flags, file)
    options = cli_train.train_options(
        command_line.parse("[flags]", cli_train.ALL, argv := ["train", *given]), argv
    )
    assert (options.recipe.data.location, options.run_dir) == (location, Path("runs", name))
    assert options.recipe.data.validation_location is None
    kept = files == MANIFEST and location in ("/m.csv", "/n")
    assert options.recipe.data.manifest_root == ("/m" if kept else None)


def test_two_sources_in_the_same_place_are_refused(write):
    both = ("--data_dir=/a", "--dataset=cats")
    assert refused(*both, read=parse) == (
        "--data_dir and --dataset both name the images; omit one of them"
    )
    file = write("\n".join(both))
    assert refused(file, read=parse).startswith("--data_dir and --dataset in /")


def test_companion_of_another_source_on_the_command_line_is_refused(write):
    file = write("--data_dir=/a\n")
    with pytest.raises(FlagError, match=r"^--val_dir requires --train_dir; give both, or omit it"):
        cli_flags.build_data_spec(parse(file, "--val_dir=/b"))


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


@settings(deadline=None, max_examples=30)
@given(before=lines, inner=lines, outer=lines, after=lines)
def test_flag_file_equals_its_lines_in_its_place(before, inner, outer, after):
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "inner").write_text("\n".join(inner))
        (Path(place) / "outer").write_text("\n".join([f"--flagfile={place}/inner", *outer]))
        found = parse(*before, f"--flagfile={place}/outer", *after)
    own = any(line.startswith("--phase") for line in before + after)
    brought = [line for line in inner + outer if not (own and line.startswith("--phase"))]
    expected = parse(*before, *brought, *after)
    for name in command_line.flag_names(cli_flags.RUN):
        assert getattr(found, name) == getattr(expected, name)
    assert found.explicit == expected.explicit


def test_flags_of_other_programs_in_a_flag_file_are_ignored(write):
    file = write("--data_dir=x\n--seed=3\n--nodeterministic\n--phase=a()\n--on_bad_image=fail\n")

    def read(*arguments):
        group = (cli_flags.define_images,)
        return command_line.parse("[flags]", group, ["bin/doctor", *arguments], cli_train.names())

    assert cli_flags.build_data_spec(read(file)).location.endswith("/x")
    assert "'seed'" not in refused(file, "--nosuch=1", read=read)
    for flag in ("--seed=3", "--on_bad_image=skip"):
        assert refused(file, flag, read=read).startswith(f"{flag.split('=')[0]} does not exist")
    mistyped = write("--data_dir=x\n--sed=3\n", "other.flags")
    assert refused(mistyped, read=read).startswith("--sed does not exist")


def test_own_flag_file_is_found_from_any_folder_and_a_local_one_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli_train.recipe_from_flags("--flagfile=solar_cells.flags").data.source == "tfds"
    (tmp_path / "solar_cells.flags").write_text("--data_dir=mine\n--phase=a()\n")
    local = cli_train.recipe_from_flags("--flagfile=solar_cells.flags").data
    assert local.location == str(tmp_path / "mine")
