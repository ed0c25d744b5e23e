"""TensorBoard's logger: what the board shows; a full disk costs that, and not the run."""

from __future__ import annotations

import types

import numpy as np
import pytest
import tensorflow as tf
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from engine.core.recipe import Phase
from engine.loggers.base import StepMetrics
from engine.loggers.tensorboard import TensorBoardLogger
from engine.runs import history
from engine.runs.directory import RunDirectory
from tests.engine import small


def full(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


def log_run(place, test_accuracy: float = 0.5) -> None:
    place.mkdir(exist_ok=True)
    model = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Dense(2)])
    board = TensorBoardLogger(RunDirectory(place), ("blue", "red"), model)
    board.begin(small.recipe(), np.zeros((1, 4, 4, 3), np.uint8))
    board.step(StepMetrics(Phase("head"), 1, 1, 1, 2, 1, 8, 0.5, 0.5, 1e-3, 100.0, 0.0))
    row = {**dict.fromkeys(history.COLUMNS, 0.0), "phase": "head", "epoch": 1, "step": 2}
    board.epoch(row, types.SimpleNamespace(confusion=np.eye(2, dtype=int)), best=True)
    metrics = {"accuracy": 0.75, "loss": 0.5}
    board.end({"validation": metrics, "test": {**metrics, "accuracy": test_accuracy}})


def hparams_rows(folder) -> tuple[list, list[str]]:
    """The rows of the HParams page, and the names of all runs."""
    board = EventMultiplexer().AddRunsFromDirectory(str(folder))
    board.Reload()
    provider = TBContext(data_provider=MultiplexerDataProvider(board, str(folder)))
    backend, request = backend_context.Context(provider), context.RequestContext()
    metrics = backend.experiment_from_metadata(
        request, "", True, backend.hparams_metadata(request, ""), []
    ).metric_infos
    wanted = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=range(4),
        slice_size=10,
        col_params=[api_pb2.ColParams(metric=metric.name) for metric in metrics],
    )
    found = list_session_groups.Handler(request, backend, "", wanted).run()
    return list(found.session_groups), sorted(board.Runs())


def test_board_has_a_row_for_each_run_with_its_data_and_test_accuracy(tmp_path):
    accuracies = {"a": 0.5, "b": 0.625}
    for name, accuracy in accuracies.items():
        log_run(tmp_path / name, accuracy)
    rows, names = hparams_rows(tmp_path)
    assert names == [f"{run}/{part}" for run in "ab" for part in ("final", "train", "validation")]
    assert len(rows) == 2
    for row in rows:
        (session,) = row.sessions
        values = {(m.name.group, m.name.tag): m.value for m in row.metric_values}
        assert values["", "test/accuracy"] == accuracies[session.name.removesuffix("/final")]
        assert values["", "validation/accuracy"] == 0.75
        assert row.hparams["data"].string_value == "images"


def test_board_of_a_single_run_has_its_row_with_metrics(tmp_path):
    log_run(tmp_path / "a", 0.625)
    (row,), names = hparams_rows(tmp_path / "a")
    assert names == ["final", "train", "validation"]
    values = {m.name.tag: m.value for m in row.metric_values}
    assert (values["test/accuracy"], values["validation/accuracy"]) == (0.625, 0.75)
    assert row.hparams["data"].string_value == "images"


@pytest.mark.parametrize("failing", ["create_file_writer", "scalar", "image"])
def test_full_disk_does_not_end_a_run(tmp_path, monkeypatch, failing):
    monkeypatch.setattr(tf.summary, failing, full)
    log_run(tmp_path)
