"""The flags by which `bin/evaluate` changes how a model's answers are read from then on."""

from __future__ import annotations

import dataclasses

from absl import flags

from engine.cli import flags as cli_flags
from engine.evaluation.decision_rule import DecisionRule

NAMES = ("positive_class", "min_recall", "abstain", "plain")


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "positive_class",
        None,
        "the class that must not be missed: fits on the run's own validation part the threshold "
        "that finds --min_recall of it with the fewest false alarms, and saves it with the model",
        flag_values=values,
    )
    cli_flags.number(values, "min_recall", None, "the share of it that is to be found, up to 1")
    cli_flags.number(
        values,
        "abstain",
        None,
        "answers where no class is as likely as this, 0 to 1, are uncertain, and none at 0; saved "
        "with the model",
    )
    flags.DEFINE_bool(
        "plain",
        False,
        "takes off again what --positive_class and --abstain saved: the likeliest class is the "
        "answer; the temperature stays",
        flag_values=values,
    )


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is to become of a saved rule; plain takes all off but the temperature.

    abstain: 0 takes that off alone.
    """

    positive_class: str | None
    min_recall: float | None
    abstain: float | None
    plain: bool


@cli_flags.as_flag_errors()
def changes(parsed: cli_flags.Parsed) -> Changes | None:
    """What the flags ask for; None where they leave the rule as it is.

    Raises:
      FlagError: they don't go together, or a value does not fit.
    """
    asked = Changes(parsed.positive_class, parsed.min_recall, parsed.abstain, parsed.plain)
    named = given(parsed)
    if asked.plain and len(named) > 1:
        raise cli_flags.FlagError(f"--plain and --{named[0]}; allowed: one of them")
    if (asked.positive_class is None) != (asked.min_recall is None):
        raise cli_flags.FlagError(
            "--positive_class and --min_recall go together, as --positive_class=defective "
            "--min_recall=0.95; give both or neither"
        )
    if asked.min_recall == 0:
        raise cli_flags.FlagError("--min_recall=0 would find nothing; allowed: above 0, up to 1")
    DecisionRule(min_recall=asked.min_recall, abstain=asked.abstain)  # checks them
    return asked if named else None


def given(parsed: cli_flags.Parsed) -> list[str]:
    """Those that ask for something."""
    values = {name: getattr(parsed, name) for name in NAMES}
    return [name for name, value in values.items() if value is not None and value is not False]
