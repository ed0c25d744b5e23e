"""The console logger: plain lines in a file, a live line in a terminal."""

from __future__ import annotations

import errno
import io
import os
import re

import numpy as np
import pytest
from rich.console import Console

from engine.benchmark.time_to_accuracy import ACCURACY
from engine.core.recipe import Phase
from engine.evaluation.evaluate import Evaluation
from engine.loggers import console
from engine.loggers.base import StepMetrics
from engine.loggers.console import ConsoleLogger, LogConsole, describe_step

METRICS = StepMetrics(
    phase=Phase("tune", epochs=3), epoch=2, step=70, step_of_epoch=20, steps_per_epoch=50,
    steps_left=80, batch_size=32, loss=0.51234, accuracy=0.875, learning_rate=1e-3,
    images_per_second=40.0, wait_fraction=0.25,
)  # fmt: skip
ROW = {
    "phase": "tune", "epoch": 2, "train_loss": 0.5, "train_accuracy": 0.75, "val_loss": 0.25,
    "val_accuracy": 0.98765, "images_per_second": 41.7, "data_wait_fraction": 0.031,
    "seconds": 12.4,
}  # fmt: skip
EVALUATION = Evaluation(0.25, np.eye(2, dtype=np.int64))


def terminal(live: bool = False, width: int = 80) -> tuple[ConsoleLogger, io.StringIO]:
    out = io.StringIO()
    return ConsoleLogger(Console(file=out, force_terminal=live, width=width, highlight=False)), out


def test_describe_step():
    """80 steps of 32 images at 40 a second are 64 seconds."""
    assert describe_step(METRICS) == (
        "tune epoch 2/3, step 20/50: 40 images/s, 25% waiting for data, "
        "loss 0.5123, accuracy 87.50%, 1 min 4 s left in phase"
    )


def test_epochs_are_an_aligned_table_headed_for_each_phase():
    logger, out = terminal(width=20)
    for number, best in ((2, True), (10, False)):
        logger.epoch(ROW | {"epoch": number}, EVALUATION, best=best)
    logger.epoch(ROW | {"phase": "fine_tune", "train_loss": 12.5}, EVALUATION, best=False)
    assert out.getvalue() == (
        "phase  epoch     loss      acc  val loss  val acc  images/s  wait      s\n"
        "tune       2   0.5000   75.00%    0.2500   98.77%        42    3%     12  best\n"
        "tune      10   0.5000   75.00%    0.2500   98.77%        42    3%     12\n"
        "phase      epoch     loss      acc  val loss  val acc  images/s  wait      s\n"
        "fine_tune      2  12.5000   75.00%    0.2500   98.77%        42    3%     12\n"
    )
    matches = map(ACCURACY.search, out.getvalue().splitlines())
    assert [match[1] for match in matches if match] == ["98.77"] * 3, "as the benchmark reads it"


class OnFullDisk(io.StringIO):
    full = True

    def write(self, text):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


@pytest.mark.parametrize("live", [False, True])
def test_full_disk_does_not_end_logging(live):
    out = OnFullDisk()
    out.full = False
    with ConsoleLogger(Console(file=out, force_terminal=live, width=200)) as logger:
        out.full = True
        logger.note("lost, perhaps")
        logger.step(METRICS)
        logger.epoch(ROW, EVALUATION, best=True)
        out.full = False
        logger.note("there is room again")
        out.full = True
    assert "there is room again" in out.getvalue()


@pytest.mark.parametrize("live", [False, True])
def test_reader_that_goes_away_does_not_end_logging(live):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with ConsoleLogger(LogConsole(file=Closed(), force_terminal=live)) as logger:
        logger.note("nobody reads this")
        logger.step(METRICS)
        logger.epoch(ROW, EVALUATION, best=True)


@pytest.mark.parametrize("line", ["[bold]a[/bold]", "a :cat: in /x/:dog:.jpg", "[/]", "a   b"])
@pytest.mark.parametrize("live", [False, True])
def test_note_is_printed_verbatim(line, live):
    """Names of files and classes may look like rich's markup."""
    logger, out = terminal(live)
    logger.note(line)
    assert out.getvalue() == line + "\n"


def test_plain_lines_are_rate_limited(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    logger, out = terminal()
    for seconds in (1, 10, 16, 17, 30, 32):
        now = 1000.0 + seconds
        logger.step(METRICS)
    assert out.getvalue() == 2 * (describe_step(METRICS) + "\n"), "after 16 and after 32 seconds"


def test_live_line_ends_with_block():
    logger, out = terminal(live=True, width=200)
    with logger:
        logger.step(METRICS)
        logger.live.refresh()
        assert describe_step(METRICS) in out.getvalue()
        logger.note("a note")
    assert "a note" in out.getvalue()
    assert out.getvalue().endswith("\x1b[1A\x1b[2K"), "the line is taken away"


def test_live_line_fits_the_terminal_and_moves_on_after_the_last_epoch():
    logger, out = terminal(live=True, width=40)
    with logger:
        logger.step(METRICS)
        logger.live.refresh()
        assert "tune epoch 2/3, step 20/50: 40 images…" in out.getvalue()
        assert "\n" not in out.getvalue().strip()
        logger.epoch(ROW, EVALUATION, best=True)
        logger.live.refresh()
        assert "tune epoch 2 is over" in out.getvalue()
        logger.end({})
        logger.live.refresh()
        assert "writing the report" in out.getvalue()


def test_sign_of_the_live_line_moves_while_nothing_is_logged():
    """As during the evaluation of the test split and the report."""
    clock, out = [0.0], io.StringIO()
    stage = Console(file=out, force_terminal=True, width=80, get_time=lambda: clock[0])
    with ConsoleLogger(stage) as logger:
        logger.end({})
        for clock[0] in (1.0, 1.15, 1.3):  # it turns on in 0.13 s
            logger.live.refresh()
    signs = re.findall(r"([-/|\\])(?:\x1b\[0m)? writing the report", out.getvalue())
    assert len(set(signs)) == 3


def test_file_has_no_live_line():
    logger, out = terminal()
    with logger:
        assert logger.live is None
        logger.note("a note")
    assert out.getvalue() == "a note\n"
