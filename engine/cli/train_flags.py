"""The flags of `bin/train`, which other programs pass over where a flag file holds them."""

from __future__ import annotations

from absl import flags

from engine.cli import flags as cli_flags
from engine.cli import recipe_file
from engine.core.recipe import ON_NAN

# What batch systems send, and nothing here uses otherwise.
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGURG", "SIGALRM")


def define(values: flags.FlagValues) -> None:
    text = "the run; default: runs/ and the name of the flag file, or of the recipe or its run"
    cli_flags.place(values, "run_dir", None, text)
    flags.DEFINE_string("recipe", None, recipe_file.HELP, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "remove the run that --run_dir holds", flag_values=values)
    cli_flags.number(values, "checkpoint_minutes", 10.0, "between checkpoints within an epoch")
    cli_flags.whole(values, "log_every_steps", 10, "steps between figures", least=1)
    cli_flags.whole(values, "steps_per_execution", None, "measured if not given", least=1)
    flags.DEFINE(
        cli_flags.Span(), "profile_steps", None, "FIRST-LAST, for TensorFlow's profiler", values
    )
    cli_flags.choice(
        values,
        "preemption_signal",
        None,
        SIGNALS,
        "what a scheduler sends before it takes the machine away; ends the run as one SIGTERM does",
    )
    flags.DEFINE_bool(
        "watch_preemption", False, "ask AWS and Google whether they take the machine away", values
    )
    cli_flags.choice(values, "on_nan", "halve", ON_NAN, "halve the rate and go back, or stop")
    flags.DEFINE_bool("report", True, "write report/report.html at the end", flag_values=values)
    cli_flags.price_per_hour(values)
    cli_flags.place(values, "show_augmented", None, "write what the network sees, as PNG")


ALL = (*cli_flags.RUN, define)


def names() -> list[str]:
    return cli_flags.names(ALL)
