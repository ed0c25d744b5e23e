"""Checkpoints are restored as they were saved, and damaged files are detected."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.core.errors import UserError
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory

WEIGHTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64), np.zeros([0, 2])]

OTHER_VERSION = {"step": 20, "pace": 3}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    return run


def tensors(arrays) -> list[tf.Tensor]:
    return [tf.constant(array) for array in arrays]


def save(run: RunDirectory, step: int, phase: int = 0):
    weights = tensors(array + step for array in WEIGHTS)
    return checkpoints.save(run, TrainState(phase=phase, step=step), {"model": weights})


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_checkpoint_round_trip(run):
    state = TrainState(
        phase=1, epoch=2, step=300, phase_start=100, best={"phase": "a", "val_loss": 0.1}, stale=1,
        best_loss=0.1, seconds=1.5, wait_seconds=0.5, fill_seconds=0.75, eval_seconds=0.25,
        spent={"seconds": 7.0}, total_seconds=9.0,
        history=[{"epoch": 1, "val_loss": float("nan")}], phases=[{"name": "a"}],
    )  # fmt: skip
    groups = {"model": tensors(WEIGHTS), "optimizer": tensors(range(120)), "totals": []}
    checkpoints.save(run, state, groups)
    again, arrays = checkpoints.load(run)
    assert repr(again) == repr(state), "repr, since NaN equals nothing"
    assert list(arrays) == ["model", "optimizer"]
    assert [int(array) for array in arrays["optimizer"]] == list(range(120))
    for mine, other in zip(arrays["model"], WEIGHTS, strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)


def test_end_epoch_adds_up_times():
    state = TrainState()
    for seconds in (1.0, 2.0):
        state.seconds, state.wait_seconds = seconds, seconds / 4
        state.fill_seconds, state.eval_seconds = 3 * seconds, 5 * seconds
        state.end_epoch()
    total = {"seconds": 3.0, "wait_seconds": 0.75, "fill_seconds": 9.0, "eval_seconds": 15.0}
    assert state == TrainState(spent=total, last_eval_seconds=10.0)


def test_load_without_checkpoint_returns_fresh_state(run):
    assert checkpoints.load(run) == (TrainState(), {})


def test_save_keeps_newest_two(run):
    for step in (5, 20, 100):
        save(run, step)
    assert names(run) == ["step_000000020_phase_000.npz", "step_000000100_phase_000.npz"]
    assert checkpoints.load(run)[0].step == 100


def test_later_phase_at_same_step_is_newer(run):
    save(run, 5, phase=9)
    save(run, 5, phase=10)
    assert checkpoints.load(run)[0].phase == 10


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 3
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def hollow(data: bytes) -> bytes:
    """As a power cut may leave it: the right size without content."""
    return bytes(len(data))


@pytest.mark.parametrize("damage", [truncated, flipped, hollow, lambda data: b""])
def test_load_skips_damaged_checkpoint(run, damage):
    save(run, 10)
    newest = save(run, 20)
    newest.write_bytes(damage(newest.read_bytes()))
    state, arrays = checkpoints.load(run)
    assert state.step == 10
    np.testing.assert_array_equal(arrays["model"][0], WEIGHTS[0] + 10)


def test_save_deletes_damaged_later_checkpoint(run):
    """Otherwise the damaged one, of a later step, would displace an intact one."""
    save(run, 90).write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 1 checkpoints .* --overwrite"):
        checkpoints.load(run)
    save(run, 10)
    save(run, 20)
    assert names(run) == ["step_000000010_phase_000.npz", "step_000000020_phase_000.npz"]


def test_flipped_bits_are_detected(tmp_path):
    """In every byte of a small file: it is refused, or reads as before (a time stamp, say)."""
    path = tmp_path / "small.npz"
    whole = checkpoints.pack({"model": tensors([np.arange(3.0)])}, {"step": 1})
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            arrays, values = checkpoints.unpack(path)
        except UserError:
            refused += 1
            continue
        assert values == {"step": 1}
        np.testing.assert_array_equal(arrays["model"][0], np.arange(3.0))
    assert refused > len(whole) / 2


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def of_objects(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    values = np.frombuffer(b'[["model/00000"], {"step": 30}]', np.uint8)
    np.savez(buffer, allow_pickle=True, values=values, **{"model/00000": np.array([bomb], object)})
    return buffer.getvalue()


def member_is_pickle(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("values.npy", pickle.dumps(bomb))
    return buffer.getvalue()


@pytest.mark.parametrize("attack", [of_objects, member_is_pickle, pickle.dumps])
def test_load_executes_no_pickles(run, tmp_path, attack):
    target = tmp_path / "executed"
    data = attack(Bomb(target))
    save(run, 10)
    (run.checkpoints / "step_000000030_phase_000.npz").write_bytes(data)
    assert checkpoints.load(run)[0].step == 10
    assert not target.exists()
    if attack is of_objects:
        np.load(io.BytesIO(data), allow_pickle=True)["model/00000"]
        assert target.exists(), "the attack works where it is allowed"


def test_load_refuses_zip_bombs(run):
    """Neither by compression nor by naming one array twice."""
    save(run, 10)
    small = io.BytesIO()
    names = np.frombuffer(b'[["model/00000"], {"step": 30}]', np.uint8)
    np.savez_compressed(small, values=names, **{"model/00000": np.zeros(1 << 20)})
    twice = io.BytesIO()
    names = np.frombuffer(b'[["model/00000", "model/00000"], {"step": 40}]', np.uint8)
    np.savez(twice, values=names, **{"model/00000": WEIGHTS[0]})
    for step, data in ((30, small.getvalue()), (40, twice.getvalue())):
        (run.checkpoints / f"step_0000000{step}_phase_000.npz").write_bytes(data)
        assert checkpoints.load(run)[0].step == 10


@pytest.mark.parametrize("values", [OTHER_VERSION, {"step": "x"}, {"history": 3}, [], None])
def test_load_skips_invalid_state(run, values):
    save(run, 10)
    other = run.checkpoints / "step_000000020_phase_000.npz"
    other.write_bytes(checkpoints.pack({"model": WEIGHTS}, values))
    assert checkpoints.load(run)[0].step == 10


def test_restore_assigns_keras_and_tensorflow_variables():
    variables = [keras.Variable(np.zeros([2, 3], np.float32)), tf.Variable(0, dtype=tf.int64)]
    checkpoints.restore(variables, WEIGHTS[:2], "here")
    np.testing.assert_array_equal(variables[0].numpy(), WEIGHTS[0])
    assert int(variables[1]) == 7


@pytest.mark.parametrize(
    "arrays",
    [[], WEIGHTS[:1] * 2, [WEIGHTS[0].T], [WEIGHTS[0].astype(np.float64)]],
    ids=["none", "too many", "shape", "type"],
)
def test_restore_refuses_arrays_of_other_model(arrays):
    variable = keras.Variable(np.ones([2, 3], np.float32))
    with pytest.raises(UserError, match=r"here: the checkpoint's \d arrays don't fit this model"):
        checkpoints.restore([variable], arrays, "here")
    np.testing.assert_array_equal(variable.numpy(), 1)
