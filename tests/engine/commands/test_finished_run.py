"""What commands make of a finished run: refuse, repeat, start from it, evaluate it again."""

from __future__ import annotations

import json
import shutil

import pytest

from engine.core.errors import UserError
from engine.runs.directory import RunDirectory
from tests.engine import saved_run
from tests.engine.small_runs import same_end

SMALL = (
    *("--backbone=tiny", "--weights=none", "--image_size=32", "--batch_size=8", "--noreport"),
    *("--validation_fraction=0.25", "--precision=float32"),
)


def test_finished_run_is_not_overwritten(call, trained_run, coloured):
    place = trained_run.path
    before = {path: path.read_bytes() for path in place.glob("*.*")}
    with pytest.raises(UserError, match=r"finished; name another --run_dir= .*--overwrite"):
        call("train", f"--recipe={place / 'recipe.json'}", f"--run_dir={place}")
    with pytest.raises(UserError, match="another recipe"):
        call("train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}")
    assert before == {path: path.read_bytes() for path in place.glob("*.*")}


def test_new_run_of_a_recipe_and_its_plan_has_the_same_bits(call, trained_run, tmp_path):
    """What the first run measured is followed, not measured again."""
    place, again = trained_run.path, tmp_path / "again"
    flags = ("--cache_memory=0", "--steps_per_execution=3", "--noreport")
    call("train", f"--recipe={place / 'recipe.json'}", f"--run_dir={again}", *flags)
    for name in ("recipe.json", "plan.json"):
        assert (again / name).read_bytes() == (place / name).read_bytes()
    assert same_end(RunDirectory(again), RunDirectory(place))


def test_init_from_starts_with_the_weights_and_head_of_a_run(call, trained_run, coloured, tmp_path):
    own = ("--phase=more(epochs=1, learning_rate=1e-6)", f"--init_from={trained_run.path}")
    out = call("train", *SMALL, *own, f"--data_dir={coloured}", f"--run_dir={tmp_path}/run")
    assert "head included" in out
    best = json.loads((tmp_path / "run" / "result.json").read_text())["best"]["val_accuracy"]
    assert best == pytest.approx(trained_run.result["best"]["val_accuracy"], abs=0.08)
    assert best > 0.9


def test_broken_image_ends_the_run_where_the_flag_says_so(call, coloured, tmp_path):
    data = shutil.copytree(coloured, tmp_path / "data")
    (data / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    places = (f"--data_dir={data}", f"--run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"broken\.jpg"):
        call("train", *SMALL, "--phase=transfer(epochs=1)", "--on_bad_image=fail", *places)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_data_with_an_unknown_class_is_refused(call, trained_run, coloured, tmp_path):
    (tmp_path / "green").symlink_to(coloured / "red")
    (tmp_path / "blue").symlink_to(coloured / "blue")
    with pytest.raises(UserError, match=r"'green' .*blue, red"):
        call("evaluate", f"--run_dir={trained_run.path}", f"--data_dir={tmp_path}")


def test_tta_by_draws_is_refused_for_a_run_without_augmentation(call, coloured, tmp_path):
    run, image = saved_run.save(tmp_path / "run", augment="none").path, coloured / "red" / "00.jpg"
    for program, data in (("evaluate", f"--data_dir={coloured}"), ("predict", image)):
        with pytest.raises(UserError, match=r"^--tta=4 .*the run's own augmentation") as raised:
            call(program, f"--run_dir={run}", "--tta=4", data)
        assert "\n" not in str(raised.value)
