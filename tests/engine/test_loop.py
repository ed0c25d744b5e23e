"""The loop, whole: small real pictures, a small real network, phases, interruptions."""

from __future__ import annotations

import csv
import dataclasses
import functools
import gc
import json
import resource
import weakref

import numpy as np
import pytest

from engine import checkpoints, classifier, loop, pace, planning, precision, results, storage
from engine.rundir import RunDir, claim
from engine.specs import DataSpec, Recipe, UserError, parse_calls, parse_phase
from engine.storage import Room
from pipelines import augment, batches, examples, sources

PHASES = (
    "transfer(epochs=2, learning_rate=1e-2)",
    "fine_tune(trainable=block_16, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-2)",
)


class Watcher:
    """Remembers what it was told; may interrupt at a step, and measure memory now and then."""

    measures = False

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.notes, self.moments, self.rows, self.memory = stop_at, [], [], [], []

    def note(self, line):
        self.notes.append(line)

    def step(self, moment):
        self.moments.append(moment)
        if moment.step == self.stop_at:
            raise InterruptedError

    def end(self):
        pass

    def epoch(self, row, evaluation, best):
        self.rows.append(row)
        if self.measures and row["epoch"] % 4 == 0:
            gc.collect()
            self.memory.append(resident_bytes())


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def small_recipe(
    place, phases=PHASES, augment="rotate(10)|flip|brightness(0.1)", **changes
) -> Recipe:
    recipe = Recipe(
        data=DataSpec("folders", str(place), validation_fraction=0.25),
        phases=tuple(parse_phase(text) for text in phases),
        backbone="mobilenet_v2",
        image_size=(32, 32),
        weights="none",
        augment=parse_calls(augment),
        dropout=0.2,
        batch_size=8,
        precision="float32",  # what is measured to be fastest may differ from run to run
    )
    return dataclasses.replace(recipe, **changes)


class Decoded:
    """All pictures of a data set, as `pipelines.pixels.Pixels` gives them."""

    def __init__(self, recipe: Recipe) -> None:
        data = sources.load(recipe.data)
        data = data.replace(splits=np.full(len(data), examples.TRAIN, np.int8))
        read = batches.make_feed(data, recipe, 2).once("train")
        self.pictures = np.concatenate([np.array(batch.inputs) for batch in read])

    def take(self, rows) -> np.ndarray:
        return self.pictures[rows]


@functools.cache
def decoded(location: str) -> Decoded:
    return Decoded(small_recipe(location))


def job(recipe, place, watcher, from_files=False, devices=None, **settings) -> loop.Job:
    """Pictures are taken from memory where not said otherwise: it saves a second each epoch."""
    run = RunDir(place)
    claim(run, recipe, overwrite=False)
    pixels = None if from_files else decoded(recipe.data.location)
    feed = batches.make_feed(sources.load(recipe.data), recipe, 2, pixels)
    made = classifier.build(recipe, len(feed.classes), devices)
    changes = augment.compose(recipe.augment)
    settings = {"log_steps": 1, "steps_per_call": 1, **settings}
    return loop.Job(recipe, made, feed, changes, run, watcher, **settings)


@pytest.fixture(scope="module")
def undisturbed(coloured, tmp_path_factory):
    watcher = Watcher()
    place = tmp_path_factory.mktemp("run") / "run"
    made = job(small_recipe(coloured), place, watcher, from_files=True)
    return made, watcher, loop.train(made)


def final(run: RunDir) -> dict[str, list[np.ndarray]]:
    """Variables of the model and the optimizer at the end, and those of the best model."""
    arrays = checkpoints.load(run)[1]
    return {**arrays, "best": checkpoints.unpack(run.best)[0]["model"]}


def timeless(run: RunDir) -> list[list]:
    """History, less the columns that tell times."""
    return [[row[c] for c in results.COLUMNS[:8]] for row in checkpoints.load(run)[0].history]


def same_end(one: RunDir, other: RunDir) -> bool:
    """Bit for bit."""
    assert timeless(one) == timeless(other)
    mine, others = final(one), final(other)
    assert {"model", "optimizer", "best"} <= mine.keys() == others.keys()
    return all(
        a.tobytes() == b.tobytes()
        for group, arrays in mine.items()
        for a, b in zip(arrays, others[group], strict=True)
    )


def test_history_has_one_row_for_each_epoch(undisturbed):
    made, watcher, _ = undisturbed
    with open(made.run.history) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(results.COLUMNS)
    assert [(row["phase"], int(row["epoch"])) for row in rows] == [
        ("transfer", 1),
        ("transfer", 2),
        ("fine_tune", 1),
        ("fine_tune", 2),
    ]
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20]
    assert [row["step"] for row in watcher.rows] == [5, 10, 15, 20]


def test_result_says_what_was_trained(undisturbed):
    made, _, result = undisturbed
    assert json.loads(made.run.result.read_text()) == result
    assert result["status"] == "finished"
    assert result["classes"] == ["blue", "red"]
    transfer, fine_tune = result["phases"]
    assert transfer["trainable_variables"] == 2
    assert transfer["trainable_parameters"] == 1280 * 2 + 2
    assert fine_tune["trainable_parameters"] > transfer["trainable_parameters"]
    best = max(
        made.run.history.open().read().splitlines()[1:], key=lambda r: float(r.split(",")[6])
    )
    assert result["best"]["val_accuracy"] == float(best.split(",")[6])


def test_the_saved_best_model_scores_what_the_result_says(undisturbed):
    from engine import evaluation, runs, steps

    made, _, result = undisturbed
    opened = runs.reopen(made.run)
    again = evaluation.evaluate(steps.make_eval_step(opened.model), made.feed.once("validation"), 2)
    assert result["validation"] == {"accuracy": again.accuracy, "loss": again.loss, "count": 13}
    # While it trained, the frozen part was a program of its own.
    assert again.accuracy == result["best"]["val_accuracy"]
    assert again.loss == pytest.approx(result["best"]["val_loss"], rel=1e-4)
    assert "test" not in result


@pytest.mark.parametrize("step", [3, 5, 10, 13])
def test_a_run_that_was_stopped_ends_with_the_same_bits(coloured, undisturbed, tmp_path, step):
    recipe = small_recipe(coloured)
    with pytest.raises(InterruptedError):
        loop.train(job(recipe, tmp_path / "run", Watcher(stop_at=step), checkpoint_minutes=0))
    again = job(recipe, tmp_path / "run", Watcher())
    resumed = loop.train(again)
    assert same_end(again.run, undisturbed[0].run)
    assert resumed["best"] == undisturbed[2]["best"]


@pytest.fixture
def half_is_faster(monkeypatch):
    """As if bfloat16 had been measured to be the fastest."""

    def trials(programs, make, inputs):
        return [precision.Trial(program, 1.0 + place, 0) for place, program in enumerate(programs)]

    monkeypatch.setattr(precision, "trials", trials)
    monkeypatch.setattr(precision, "half_precisions", lambda: ["bfloat16"])


LONGER = (
    "transfer(epochs=3, learning_rate=1e-2{})",
    "fine_tune(trainable=block_16, epochs=3, optimizer=adam, learning_rate=1e-3{})",
)
OTHER_RUNS = {
    "views drawn anew in part, in bfloat16": (
        {"precision": "auto", "phases": [text.format(", views=2, refresh=0.3") for text in LONGER]},
        {"room": Room(10**9)},
        2,
    ),
    "mirror images, steps in one call": (
        {"augment": "flip", "phases": [text.format("") for text in LONGER]},
        {"room": Room(10**9), "steps_per_call": 4},
        2,
    ),
    "in pieces, steps in one call": ({"accumulate": 2}, {"steps_per_call": 4}, 0),
}


@pytest.mark.parametrize("what", OTHER_RUNS)
def test_so_does_one_that(coloured, tmp_path, half_is_faster, what):
    """Stopped twice, within an epoch and at the end of one, in either phase."""
    changes, settings, kept = OTHER_RUNS[what]
    recipe = small_recipe(coloured, **changes)
    steady = job(recipe, tmp_path / "steady", Watcher(), **settings)
    loop.train(steady)
    place = tmp_path / "stopped"
    last = 5 * sum(phase.epochs for phase in recipe.phases)
    for stop in (last // 2 - 1, last - 5):
        with pytest.raises(InterruptedError):
            loop.train(job(recipe, place, Watcher(stop), checkpoint_minutes=0, **settings))
    loop.train(job(recipe, place, Watcher(), **settings))
    assert same_end(RunDir(place), steady.run)
    phases = json.loads(steady.run.plan.read_text())["keeps"].values()
    assert [phase["slots"] for phase in phases] == [kept, kept]


def test_the_measured_pace_changes_nothing(coloured, undisturbed, tmp_path, monkeypatch):
    """In the first epoch the pace changes from one step a call to all that are left."""
    monkeypatch.setattr(pace, "CALL_SECONDS", 1e9)
    watcher = Watcher()
    made = job(small_recipe(coloured), tmp_path / "run", watcher, steps_per_call=None)
    loop.train(made)
    assert [moment.step for moment in watcher.moments[:6]] == [1, 2, 3, 4, 5, 10]
    assert same_end(made.run, undisturbed[0].run)


def test_kept_features_train_as_pictures_do(coloured, tmp_path):
    """With the same views, to rounding: a kept row was worked out in another batch."""
    phases = [text.format(", views=2, refresh=0.3") for text in LONGER]
    ends = []
    for cache in ("none", "features"):
        recipe = small_recipe(coloured, phases, cache=cache)
        made = job(recipe, tmp_path / cache, Watcher(), room=Room(10**9))
        loop.train(made)
        keeps = json.loads(made.run.plan.read_text())["keeps"].values()
        assert [keep["slots"] for keep in keeps] == [{"none": 0, "features": 2}[cache]] * 2
        ends.append((final(made.run)["model"], timeless(made.run)))
    for one, other in zip(*(model for model, _ in ends), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(*(rows for _, rows in ends), strict=True):
        assert one[3] == pytest.approx(other[3], rel=1e-3), "train_loss"
        assert one[5] == pytest.approx(other[5], rel=1e-3), "val_loss"


def test_where_features_can_not_be_kept_after_all_the_trunk_runs_each_time(
    coloured, tmp_path, monkeypatch
):
    phases = ("transfer(epochs=4, views=2)",)
    plain = job(small_recipe(coloured, phases, cache="none"), tmp_path / "plain", Watcher())
    loop.train(plain)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(storage, "table", full)
    watcher = Watcher()
    recipe = small_recipe(coloured, phases)
    made = job(recipe, tmp_path / "full", watcher, room=Room(10**9))
    loop.train(made)
    assert any("can't be kept (No space left on device)" in note for note in watcher.notes)
    ours, theirs = final(made.run), final(plain.run)
    assert all(map(np.array_equal, ours["model"], theirs["model"]))


def test_a_phase_without_epochs_is_passed_over(coloured, tmp_path):
    phases = ("transfer(epochs=0)", "fine_tune(trainable=block_16, epochs=1)")
    made = job(small_recipe(coloured, phases), tmp_path / "run", Watcher())
    result = loop.train(made)
    assert [phase["name"] for phase in result["phases"]] == ["fine_tune"]
    assert set(json.loads(made.run.plan.read_text())["keeps"]) == {"fine_tune"}


def test_a_run_that_is_taken_up_measures_and_decides_nothing_anew(coloured, tmp_path, monkeypatch):
    recipe = small_recipe(coloured, [text.format(", views=2") for text in LONGER], precision="auto")
    settings = {"room": Room(10**9), "checkpoint_minutes": 0}
    monkeypatch.setattr(precision, "half_precisions", lambda: ["bfloat16"])
    with pytest.raises(InterruptedError):
        loop.train(job(recipe, tmp_path / "run", Watcher(stop_at=17), **settings))
    plan = RunDir(tmp_path / "run").plan.read_text()
    values = json.loads(plan)
    assert set(values["keeps"]) == {"transfer", "fine_tune"}
    assert {len(each) for each in values["trials"].values()} == {2}, "float32 and bfloat16"

    def again(*_):
        raise AssertionError("decided anew")

    monkeypatch.setattr(precision, "trials", again)
    monkeypatch.setattr(planning, "decide", again)
    loop.train(job(recipe, tmp_path / "run", Watcher(), **settings))
    assert RunDir(tmp_path / "run").plan.read_text() == plan


class Saves(Watcher):
    """Notes after each epoch at which steps checkpoints had been written by then."""

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run, self.seen = run, []

    def epoch(self, row, evaluation, best):
        files = sorted(self.run.checkpoints.glob("step_*.npz"))
        steps = [int(path.name.split("_")[1]) for path in files]
        self.seen.append((row["step"], steps, self.run.best.exists()))


@pytest.mark.parametrize(
    ("seconds", "minutes", "expected"),
    [
        (1e9, 10, [(5, [], False), (10, [], False), (15, [10], True), (20, [10], True)]),
        (0, 10, [(5, [], False), (10, [5], True), (15, [5, 10], True), (20, [10, 15], True)]),
        (1e9, 0, [(5, [4, 5], False), (10, [9, 10], True), (15, [14, 15], True)]),
    ],
)
def test_epochs_that_are_soon_over_share_a_checkpoint(
    coloured, tmp_path, monkeypatch, seconds, minutes, expected
):
    """The best model is written with it; with checkpoint_minutes=0 each step writes one."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
    watcher = Saves(RunDir(tmp_path / "run"))
    loop.train(job(small_recipe(coloured), tmp_path / "run", watcher, checkpoint_minutes=minutes))
    assert watcher.seen[: len(expected)] == expected
    assert len(watcher.seen) == 4
    assert checkpoints.load(watcher.run)[0].step == 20


def test_a_damaged_newest_checkpoint_is_passed_over(coloured, undisturbed, tmp_path):
    recipe = small_recipe(coloured)
    with pytest.raises(InterruptedError):
        loop.train(job(recipe, tmp_path / "run", Watcher(stop_at=12), checkpoint_minutes=0))
    run = RunDir(tmp_path / "run")
    newest = max(run.checkpoints.glob("step_*.npz"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    loop.train(job(recipe, tmp_path / "run", Watcher()))
    assert same_end(run, undisturbed[0].run)


def test_a_run_that_only_has_to_conclude_warns_of_nothing(coloured, undisturbed, tmp_path):
    """Killed between its last checkpoint and its result, it makes no step when it is taken up."""
    recipe = small_recipe(coloured)
    made = job(recipe, tmp_path / "run", Watcher())
    loop.train(made)
    made.run.result.unlink()
    watcher = Watcher()
    again = loop.train(job(recipe, tmp_path / "run", watcher))
    assert again["best"] == undisturbed[2]["best"]
    assert not any("did not move" in note for note in watcher.notes)
    assert watcher.rows == []


def test_early_stop_ends_the_phase_and_the_next_one_begins(coloured, tmp_path):
    phases = (
        "stuck(epochs=9, learning_rate=1e-30, early_stop=2)",
        "next(epochs=1, learning_rate=1e-2)",
    )
    watcher = Watcher()
    result = loop.train(job(small_recipe(coloured, phases), tmp_path / "run", watcher))
    assert [phase["epochs"] for phase in result["phases"]] == [3, 1]
    assert any("did not move" in note for note in watcher.notes)


def test_a_loss_that_is_no_number_ends_the_run_with_its_phase(coloured, tmp_path):
    recipe = small_recipe(coloured, ("wild(epochs=2, optimizer=sgd, learning_rate=1e38)",))
    with pytest.raises(UserError, match=r"phase 'wild'.*lower the phase's learning_rate"):
        loop.train(job(recipe, tmp_path / "run", Watcher()))


def test_a_phase_gives_its_room_back_before_the_next_one_takes_its_own(
    coloured, tmp_path, monkeypatch
):
    kept, alive = [], []
    original = loop.begin

    def begin(*given):
        alive.append(sum(table() is not None for table in kept))
        stage = original(*given)
        kept.extend(weakref.ref(table.rows) for table in stage.features.tables)
        return stage

    monkeypatch.setattr(loop, "begin", begin)
    phases = [
        f"{name}(trainable={open_}, epochs=1, views=1)"
        for name, open_ in (("a", "head"), ("b", "block_16"), ("c", "head"))
    ]
    recipe = small_recipe(coloured, phases, cache="features")
    loop.train(job(recipe, tmp_path / "run", Watcher(), room=Room(10**9)))
    assert (len(kept), alive) == (3, [0, 0, 0])


class Meter(Watcher):
    measures = True

    def growth(self, first: int) -> int:
        """Bytes that were added after so many epochs."""
        return self.memory[-1] - self.memory[first // 4 - 1]


def test_resident_memory_is_flat_from_epoch_to_epoch(coloured, tmp_path):
    meter = Meter()
    recipe = small_recipe(coloured, ("transfer(epochs=12, learning_rate=1e-3)",))
    loop.train(job(recipe, tmp_path / "run", meter, from_files=True))
    assert len(meter.memory) == 3
    assert meter.growth(4) < 16 * 2**20


@pytest.mark.parametrize(
    ("where", "augment", "more"),
    [("memory", "flip", ""), ("disk", "rotate", ", views=2, refresh=0.2")],
)
def test_so_it_is_over_many_epochs_of_kept_features(
    coloured, tmp_path, monkeypatch, where, augment, more
):
    """Of all views, and of some of which a part is worked out anew each epoch."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 1e9)  # the first checkpoint loads what draws pictures
    meter = Meter()
    room = Room(10**9) if where == "memory" else Room(0, tmp_path / "kept")
    recipe = small_recipe(coloured, (f"transfer(epochs=50{more})",), augment)
    loop.train(job(recipe, tmp_path / "run", meter, room=room, steps_per_call=5))
    assert {"memory": "in memory", "disk": "on disk"}[where] in "".join(meter.notes)
    assert len(meter.memory) == 12
    assert meter.growth(12) < 4 * 2**20


def test_each_step_is_traced_once(coloured, tmp_path, monkeypatch):
    seen = []
    original = loop.steps.make_train_step
    monkeypatch.setattr(
        loop.steps, "make_train_step", lambda *a: seen.append(original(*a)) or seen[-1]
    )
    phases = [*PHASES, "again(trainable=block_16, epochs=2, views=1)"]
    settings = {"steps_per_call": 4, "room": Room(10**9)}
    loop.train(job(small_recipe(coloured, phases), tmp_path / "run", Watcher(), **settings))
    assert [step.compiled.experimental_get_tracing_count() for step in seen] == [1, 1, 1]
