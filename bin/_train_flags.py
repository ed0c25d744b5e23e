"""The flags of `bin/train`, which other programs pass over where a flag file holds them."""

from __future__ import annotations

import _flags
import _recipe_file
from absl import flags

from engine.specs import ON_NAN

# What batch systems send, and nothing here uses otherwise.
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGURG", "SIGALRM")


def define(values: flags.FlagValues) -> None:
    text = "the run; default: runs/ and the name of the flag file, or of the recipe or its run"
    _flags.place(values, "run_dir", None, text)
    flags.DEFINE_string("recipe", None, _recipe_file.HELP, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "remove the run that --run_dir holds", flag_values=values)
    _flags.number(values, "checkpoint_minutes", 10.0, "between checkpoints within an epoch")
    _flags.whole(values, "log_steps", 10, "steps between figures", least=1)
    _flags.whole(values, "steps_per_call", None, "measured if not given", least=1)
    flags.DEFINE(
        _flags.Span(), "profile_steps", None, "FIRST-LAST, for TensorFlow's profiler", values
    )
    _flags.choice(
        values,
        "preemption_signal",
        None,
        SIGNALS,
        "what a scheduler sends before it takes the machine away; ends the run as one SIGTERM does",
    )
    flags.DEFINE_bool(
        "watch_preemption", False, "ask AWS and Google whether they take the machine away", values
    )
    _flags.choice(values, "on_nan", "halve", ON_NAN, "halve the rate and go back, or stop")
    flags.DEFINE_bool("report", True, "write report/report.html at the end", flag_values=values)
    _flags.price_per_hour(values)
    _flags.place(values, "show_augmented", None, "write what the network sees, as PNG")


ALL = (*_flags.RUN, define)


def names() -> list[str]:
    return _flags.names(ALL)
