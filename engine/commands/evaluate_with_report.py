"""Evaluates a run and writes the report that its options name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.commands import evaluate as evaluation
from engine.commands.evaluate import EvaluateOptions, EvaluationResult, Log, ignore


def evaluate(
    options: EvaluateOptions,
    log: Log = ignore,
    show: Callable[[EvaluationResult], Any] = lambda result: None,
) -> EvaluationResult:
    """Evaluates a run's best model, as `engine.commands.evaluate` does, and writes the report.

    Args:
      show: receives the result before the report is written, which may fail.

    Raises:
      UserError: as there, or the report can't be written.
    """
    result = evaluation.evaluate(options, log)
    show(result)
    if options.report:
        from engine.commands import reporting

        log(f"report: {reporting.write_evaluation_report(result, options, log)}")
    return result
