import json

import pytest

from engine.report import training_log
from engine.runs.directory import RunDirectory

HISTORY = (
    "phase,epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate,"
    "images_per_second,data_wait_fraction,seconds,resident_bytes\n"
    "head,1,5,0.9,0.5,0.8,0.6,0.001,100.0,0.1,2.5,1000\n"
    "top,1,10,0.7,0.6,0.6,0.75,0.0001,50.0,0.1,3.5,1000\n"
)
RESULT = {
    "status": "finished",
    "best": {"phase": "top", "epoch": 1, "val_accuracy": 0.75, "val_loss": 0.6},
    "verdict": ["It settled."],
    "validation": {"accuracy": 0.75, "loss": 0.6, "count": 8, "accuracy_interval": [0.4, 0.93]},
    "phases": [
        {"name": "head", "epochs": 1, "steps": 5, "trainable_parameters": 30, "seconds": 2.5},
    ],
    "spent": {"seconds": 4.0, "wait_seconds": 1.0, "fill_seconds": 0.5, "eval_seconds": 1.0},
    "seconds_to_first_step": 3.0,
    "seconds_total": 9.0,
    "peak_memory_bytes": {"host": 10, "gpu_0": None},
    "software": {"python": "3.11"},
    "machine": {"cpu": "x", "gpus": []},
}  # fmt: skip


def written(place, result=RESULT, history=HISTORY) -> RunDirectory:
    run = RunDirectory(place)
    run.result.write_text(result if isinstance(result, str) else json.dumps(result))
    run.history.write_text(history)
    return run


def test_log_of_a_finished_run_is_read(tmp_path):
    found = training_log.read(written(tmp_path))
    assert [(row.phase, row.val_accuracy) for row in found.epochs] == [("head", 0.6), ("top", 0.75)]
    assert found.best_epoch == 1
    assert found.phases[0].trainable_parameters == 30
    assert found.spent["save_seconds"] == 0  # a run so short that it saved none
    assert found.spent["seconds"] == 4
    assert found.peak_memory_bytes == {"host": 10}
    assert found.verdict == ("It settled.",)
    assert found.splits == {"validation": training_log.SplitResult(0.75, 0.6, 8)}
    assert found.splits["validation"].accuracy_interval == pytest.approx((0.409, 0.929), abs=1e-3)


@pytest.mark.parametrize(
    ("result", "history"),
    [
        ({"status": "failed", "reason": "x"}, HISTORY),
        ("no json", HISTORY),
        ({**RESULT, "phases": 3}, HISTORY),
        ({**RESULT, "spent": None}, HISTORY),
        ({**RESULT, "machine": "a"}, HISTORY),
        ({**RESULT, "seconds_total": "long"}, HISTORY),
        ({**RESULT, "seconds_total": float("nan")}, HISTORY),
        ({**RESULT, "best": {}}, HISTORY),
        ({key: value for key, value in RESULT.items() if key != "software"}, HISTORY),
        (RESULT, "phase,epoch\nhead,1\n"),
        (RESULT, HISTORY.replace("0.75", "nan")),
        (RESULT, HISTORY.replace("head,1", "head,one")),
        (RESULT, HISTORY + "short\n"),
    ],
)
def test_log_of_invalid_files_is_none(tmp_path, result, history):
    assert training_log.read(written(tmp_path, result, history)) is None


def test_log_of_missing_files_is_none(tmp_path):
    assert training_log.read(RunDirectory(tmp_path)) is None
    run = written(tmp_path)
    run.history.unlink()
    assert training_log.read(run) is None
    run.history.write_bytes(b"\xff\xfe")
    assert training_log.read(run) is None
