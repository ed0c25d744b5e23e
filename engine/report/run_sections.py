"""Sections on the run itself: its epochs, what it took, and how to make it again."""

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

_NOT_FINISHED = (
    "Nothing is known of it: the run is not finished, or its history.csv and result.json are gone."
)


def training(facts: ReportData) -> Section:
    course = facts.course
    body = _curves(course) if course and course.epochs else paragraph(_NOT_FINISHED)
    return Section("training", "How it was trained", "Training", body)


def _curves(course: TrainingLog) -> Markup:
    best = None if course.best_epoch is None else course.epochs[course.best_epoch]
    saved = f" The saved model is that of {best.phase} epoch {best.epoch}." if best else ""
    phases = [
        f"{count(phase.epochs, 'epoch')} of {phase.name} "
        f"({count(phase.trainable_parameters, 'trainable parameter')})"
        for phase in course.phases
    ]
    intro = paragraph(f"Phase by phase: {names(phases)}.{saved}")
    both = (_curve(course, "accuracy"), _curve(course, "loss"))
    return join([intro, tag("div", *both, class_="charts"), _epochs(course)])


def _curve(course: TrainingLog, what: str) -> Markup:
    rows = course.epochs
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


def _epochs(course: TrainingLog) -> Markup:
    heads = (
        *("phase", "epoch", "training loss", "accuracy", "validation loss", "accuracy"),
        *("learning rate", "images/s", "time"),
    )
    rows = [
        (
            row.phase, f"{row.epoch}" + (" (saved)" if place == course.best_epoch else ""),
            f"{row.train_loss:.4f}", percent(row.train_accuracy),
            f"{row.val_loss:.4f}", percent(row.val_accuracy),
            f"{row.learning_rate:.3g}", f"{row.images_per_second:,.0f}", seconds(row.seconds),
        )
        for place, row in enumerate(course.epochs)
    ]  # fmt: skip
    return details("Every epoch", table("Figures of every epoch", heads, rows))


def resources(facts: ReportData) -> Section | None:
    course = facts.course
    if course is None:
        return None
    parts = (_total(facts, course), _time(course), _machine(course))
    return Section("resources", "What it took", "Resources", join(parts))


def _total(facts: ReportData, course: TrainingLog) -> Markup:
    words = [f"{seconds(course.seconds_total)} of work"]
    if course.seconds_to_first_step is not None:
        started = seconds(course.seconds_to_first_step)
        words.append(f"the first step {started} after the program’s start")
    peaks = [
        f"{size(value)} of memory on {_place(name)}"
        for name, value in course.peak_memory_bytes.items()
    ]
    if peaks:
        words.append(f"at most {names(peaks)}")
    text = f"{'; '.join(words)}."
    if facts.cost is not None:
        text += f" At {facts.price_per_hour:g} an hour that cost {money(facts.cost)}."
    return paragraph(text)


def _place(name: str) -> str:
    return "the host" if name == "host" else name.replace("_", " ").upper()


def _time(course: TrainingLog) -> Markup:
    total = max(course.seconds_total, sum(_parts(course).values()), 1e-9)
    rows = [
        (what, seconds(value), join([percent(value / total, 1), bar(value / total)]))
        for what, value in _parts(course).items()
    ]
    return table("What the time went into", ("what", "time", "share"), rows)


def _parts(course: TrainingLog) -> dict[str, float]:
    spent = course.spent
    parts = {
        "steps": spent["seconds"] - spent["wait_seconds"],
        "waiting for data": spent["wait_seconds"],
        "frozen part’s outputs": spent["fill_seconds"],
        "validation": spent["eval_seconds"],
        "checkpoints": spent["save_seconds"],
    }
    rest = course.seconds_total - sum(parts.values())
    return {**parts, "compiling, last measuring, the rest": max(rest, 0.0)}


def _machine(course: TrainingLog) -> Markup:
    rows = [(what, value) for what, value in _machine_rows(course) if value]
    return table("Machine and software", ("what", "which"), rows, class_="texts")


def _machine_rows(course: TrainingLog) -> Iterator[tuple[str, str]]:
    machine = course.machine
    cores = machine.get("cores")
    yield "processor", f"{machine.get('cpu')}, {count(cores, 'core')}" if cores else ""
    gpus = [str(gpu.get("name")) for gpu in machine.get("gpus") or []]
    yield "GPUs", ", ".join(gpus) or "none"
    memory = machine.get("memory_bytes")
    yield "memory", size(memory) if memory else ""
    yield "system", str(machine.get("system") or "")
    for name in ("driver", "cuda", "cudnn"):
        yield name, str(machine.get(name) or "")
    yield from course.software.items()


def recipe(facts: ReportData) -> Section:
    subject = facts.subject
    again = shlex.join(
        ["bin/train", f"--recipe={Path(subject.run) / 'recipe.json'}", "--run_dir=runs/again"]
    )
    parts = [
        paragraph("The command that made this report:"),
        preformatted("Command", subject.command),
        paragraph("The same training once more:"),
        preformatted("Command for the same training", again),
        details("The recipe", preformatted("Recipe", subject.recipe)),
    ]
    return Section("recipe", "How to make it again", "Recipe", join(parts))
