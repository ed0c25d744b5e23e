"""Sections on the run: its epochs, its resources, and how to repeat it."""

from __future__ import annotations

from pathlib import Path

from engine.core.recipe import to_json
from engine.core.text import command_line, money
from engine.evaluation.intervals import difference
from engine.report import charts
from engine.report.document import Section
from engine.report.formatting import count, percent, seconds, size, span
from engine.report.markup import Markup, details, join, paragraph, preformatted, table, tag
from engine.report.report_data import ReportData
from engine.report.training_log import TrainingLog

_NOT_FINISHED = "The run is not finished, or its history.csv and result.json are missing."


def verdict(data: ReportData) -> Section | None:
    log = data.training
    if log is None or not (log.verdict or log.splits):
        return None
    rows = [
        (name, f"{split.count:,}", percent(split.accuracy), span(split.accuracy_interval),
         f"{split.loss:.4f}")
        for name, split in log.splits.items()
    ]  # fmt: skip
    if len(log.splits) == 2:
        (one, of_one), (other, of_other) = log.splits.items()
        shares = (of_other.accuracy, of_other.accuracy_interval)
        gap = difference(*shares, of_one.accuracy, of_one.accuracy_interval)
        points = f"{100 * (of_other.accuracy - of_one.accuracy):+.2f} points"
        interval = f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f} points"
        loss = f"{of_other.loss - of_one.loss:+.4f}"
        rows.append((f"{other} less {one}", "", points, interval, loss))
    heads = ("split", "images", "accuracy", "95 % interval", "loss")
    results = table("The saved model at the end of the run", heads, rows)
    return Section(
        "verdict", "How the run went", "Verdict", join([paragraph(" ".join(log.verdict)), results])
    )


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
    intro = paragraph(f"Phases: {', '.join(phases)}.{saved}")
    both = (_curve(log, "accuracy"), _curve(log, "loss"))
    return join([intro, tag("div", *both, class_="charts"), _epochs(log)])


def _curve(log: TrainingLog, what: str) -> Markup:
    rows = log.epochs
    validation, training = (
        [getattr(row, f"{split}_{what}") for row in rows] for split in ("val", "train")
    )
    shares = what == "accuracy"
    first, last = (
        percent(value) if shares else f"{value:.4f}" for value in (validation[0], validation[-1])
    )
    summary = f"{what.capitalize()} by epoch; on validation from {first} to {last}"
    phases = [row.phase for row in rows]
    chart = charts.history(what, summary, (validation, training), phases, shares)
    caption = f"{what.capitalize()} by epoch; a line marks where a phase begins"
    return charts.figure(chart, caption, ("validation", "training"))


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
    parts = (_total(data, log), _time(data, log), _machine(log))
    return Section("resources", "Resources", "Resources", join(parts))


def _total(data: ReportData, log: TrainingLog) -> Markup:
    words = [f"{seconds(log.seconds_total)} of training", f"{seconds(data.seconds)} of report"]
    if log.seconds_to_first_step is not None:
        started = seconds(log.seconds_to_first_step)
        words.append(f"first step {started} after the start of the program")
    for name, value in log.peak_memory_bytes.items():
        place = "the host" if name == "host" else name.replace("_", " ").upper()
        words.append(f"at most {size(value)} of memory on {place}")
    text = f"{'; '.join(words)}."
    if data.cost is not None:
        text += f" At {data.context.price_per_hour:g} an hour both cost {money(data.cost)}."
    return paragraph(text)


def _time(data: ReportData, log: TrainingLog) -> Markup:
    spent = log.spent
    parts = {
        "starting TensorFlow": spent["start_seconds"],
        "reading images, building the network": spent["prepare_seconds"],
        "choosing precisions, compiling": spent["compile_seconds"],
        "steps": spent["seconds"] - spent["wait_seconds"],
        "waiting for data": spent["wait_seconds"],
        "caching trunk outputs": spent["fill_seconds"],
        "validation": spent["eval_seconds"],
        "checkpoints": spent["save_seconds"],
        "evaluation of the saved model": spent["final_seconds"],
    }
    rest = max(log.seconds_total - sum(parts.values()), 0.0)
    parts |= {"other": rest, "this report": data.seconds}
    total = max(sum(parts.values()), 1e-9)
    rows = [
        (what, seconds(value), join([percent(value / total, 1), _bar(value / total)]))
        for what, value in parts.items()
    ]
    return table("Time", ("activity", "time", "share"), rows)


def _bar(share: float) -> Markup:
    """A bar, hidden from screen readers; the number is beside it."""
    inner = tag("span", style=f"width: {share:.2%}")
    return tag("span", inner, class_="bar", aria_hidden="true")


def _machine(log: TrainingLog) -> Markup:
    machine = log.machine
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    values = {
        "processor": f"{machine.get('cpu')}, {count(cores, 'core')}" if cores else "",
        "GPUs": ", ".join(str(gpu.get("name")) for gpu in machine.get("gpus") or []) or "none",
        "memory": size(memory) if memory else "",
        **{name: machine.get(name) for name in ("system", "driver", "cuda", "cudnn")},
        **log.software,
    }
    rows = [(what, str(value)) for what, value in values.items() if value]
    return table("Machine and software", ("component", "value"), rows, class_="texts")


def recipe(data: ReportData) -> Section:
    recipe_file = Path(data.run) / "recipe.json"
    again = command_line("train", f"--recipe={recipe_file}", "--run_dir=runs/again")
    parts = [
        paragraph("The command that wrote this report:"),
        preformatted("Command", data.context.command),
        paragraph("The same training again:"),
        preformatted("Command for the same training", again),
        details("The recipe", preformatted("Recipe", to_json(data.recipe))),
    ]
    return Section("recipe", "How to reproduce it", "Recipe", join(parts))
