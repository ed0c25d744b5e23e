"""Sections on the run: its epochs, its resources, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from engine.core.text import money
from engine.report import charts
from engine.report.formatting import count, names, percent, seconds, size
from engine.report.markup import Markup, details, join, paragraph, preformatted, table, tag
from engine.report.report_data import ReportData
from engine.report.sections import Section, bar, legend
from engine.report.training_log import TrainingLog

_NOT_FINISHED = "The run is not finished, or its history.csv and result.json are missing."


def training(data: ReportData) -> Section:
    log = data.training
    body = _curves(log) if log and log.epochs else paragraph(_NOT_FINISHED)
    return Section("training", "Training", "Training", body)


def _curves(log: TrainingLog) -> Markup:
    best = None if log.best_epoch is None else log.epochs[log.best_epoch]
    saved = f" The saved model is from {best.phase} epoch {best.epoch}." if best else ""
    phases = [
        f"{count(phase.epochs, 'epoch')} of {phase.name} "
        f"({count(phase.trainable_parameters, 'trainable parameter')})"
        for phase in log.phases
    ]
    intro = paragraph(f"Phases: {names(phases)}.{saved}")
    both = (_curve(log, "accuracy"), _curve(log, "loss"))
    return join([intro, tag("div", *both, class_="charts"), _epochs(log)])


def _curve(log: TrainingLog, what: str) -> Markup:
    rows = log.epochs
    training = [getattr(row, f"train_{what}") for row in rows]
    validation = [getattr(row, f"val_{what}") for row in rows]
    shares = what == "accuracy"
    first, last = (
        percent(value) if shares else f"{value:.4f}" for value in (validation[0], validation[-1])
    )
    summary = f"{what.capitalize()} by epoch; on validation from {first} to {last}"
    chart = charts.history(what, summary, training, validation, [r.phase for r in rows], shares)
    caption = f"{what.capitalize()} by epoch; a line marks where a phase begins"
    key = legend(["validation", "training"])
    return tag("figure", tag("figcaption", caption), key, chart)


def _epochs(log: TrainingLog) -> Markup:
    heads = (
        *("phase", "epoch", "training loss", "accuracy", "validation loss", "accuracy"),
        *("learning rate", "images/s", "time"),
    )
    rows = [
        (
            row.phase, f"{row.epoch}" + (" (saved)" if index == log.best_epoch else ""),
            f"{row.train_loss:.4f}", percent(row.train_accuracy),
            f"{row.val_loss:.4f}", percent(row.val_accuracy),
            f"{row.learning_rate:.3g}", f"{row.images_per_second:,.0f}", seconds(row.seconds),
        )
        for index, row in enumerate(log.epochs)
    ]  # fmt: skip
    return details("Every epoch", table("Metrics of every epoch", heads, rows))


def resources(data: ReportData) -> Section | None:
    log = data.training
    if log is None:
        return None
    parts = (_total(data, log), _time(log), _machine(log))
    return Section("resources", "Resources", "Resources", join(parts))


def _total(data: ReportData, log: TrainingLog) -> Markup:
    words = [f"{seconds(log.seconds_total)} of training"]
    if log.seconds_to_first_step is not None:
        started = seconds(log.seconds_to_first_step)
        words.append(f"first step {started} after the start of the program")
    peaks = [
        f"{size(value)} of memory on {_place(name)}"
        for name, value in log.peak_memory_bytes.items()
    ]
    if peaks:
        words.append(f"at most {names(peaks)}")
    text = f"{'; '.join(words)}."
    if data.cost is not None:
        text += f" At {data.price_per_hour:g} an hour this cost {money(data.cost)}."
    return paragraph(text)


def _place(name: str) -> str:
    return "the host" if name == "host" else name.replace("_", " ").upper()


def _time(log: TrainingLog) -> Markup:
    total = max(log.seconds_total, sum(_parts(log).values()), 1e-9)
    rows = [
        (what, seconds(value), join([percent(value / total, 1), bar(value / total)]))
        for what, value in _parts(log).items()
    ]
    return table("Time", ("activity", "time", "share"), rows)


def _parts(log: TrainingLog) -> dict[str, float]:
    spent = log.spent
    parts = {
        "steps": spent["seconds"] - spent["wait_seconds"],
        "waiting for data": spent["wait_seconds"],
        "caching trunk outputs": spent["fill_seconds"],
        "validation": spent["eval_seconds"],
        "checkpoints": spent["save_seconds"],
    }
    rest = log.seconds_total - sum(parts.values())
    return {**parts, "compiling, final evaluation, other": max(rest, 0.0)}


def _machine(log: TrainingLog) -> Markup:
    rows = [(what, value) for what, value in _machine_rows(log) if value]
    return table("Machine and software", ("component", "value"), rows, class_="texts")


def _machine_rows(log: TrainingLog) -> Iterator[tuple[str, str]]:
    machine = log.machine
    cores = machine.get("cores")
    yield "processor", f"{machine.get('cpu')}, {count(cores, 'core')}" if cores else ""
    gpus = [str(gpu.get("name")) for gpu in machine.get("gpus") or []]
    yield "GPUs", ", ".join(gpus) or "none"
    memory = machine.get("memory_bytes")
    yield "memory", size(memory) if memory else ""
    yield "system", str(machine.get("system") or "")
    for name in ("driver", "cuda", "cudnn"):
        yield name, str(machine.get(name) or "")
    yield from log.software.items()


def recipe(data: ReportData) -> Section:
    subject = data.subject
    again = shlex.join(
        ["bin/train", f"--recipe={Path(subject.run) / 'recipe.json'}", "--run_dir=runs/again"]
    )
    parts = [
        paragraph("The command that wrote this report:"),
        preformatted("Command", subject.command),
        paragraph("The same training again:"),
        preformatted("Command for the same training", again),
        details("The recipe", preformatted("Recipe", subject.recipe)),
    ]
    return Section("recipe", "How to reproduce it", "Recipe", join(parts))
