"""What a run found out about its machine and decided by it; written down, since it moves bits.

A run that is taken up reads its decisions from `plan.json` instead of measuring again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError, choose, require
from engine.core.files import write_json
from engine.core.recipe import PRECISIONS, Recipe, digest
from engine.frozen import precision
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.precision import ComputeMode, PrecisionTrial


class PhasePlans:
    """Trials by what was tried, the trunk below a cut or the tail of a phase, and what is kept."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        """path: of the run's `plan.json`. recipe: of the run."""
        self.path, self.recipe = path, recipe
        self.trials: dict[str, list[PrecisionTrial]] = {}
        self.keeps: dict[str, CacheDecision] = {}
        try:
            values = parse_json(path.read_text("utf-8"))
            trials = {what: _trials(each) for what, each in values["trials"].items()}
            self.keeps = {name: _keep(value) for name, value in values["keeps"].items()}
            self.trials = trials
        except (OSError, UnicodeDecodeError, UserError, RecursionError):
            pass  # none were made so far, or none that can be read: they are made anew
        except (KeyError, TypeError, AttributeError):
            pass  # it has another form
        self._to_tell = set(self.trials)

    def program(
        self,
        what: str,
        programs: list[ComputeMode],
        make: Callable[[ComputeMode], Callable],
        inputs: Callable[[], Any],
        log: Callable[[str], None],
    ) -> PrecisionTrial:
        """The best of the programs for `what`, tried if it was not before; see `precision.trials`.

        inputs: gives what the programs are tried on.
        """
        if what not in self.trials:
            self.trials[what] = precision.trials(programs, make, inputs())
            self._try_to_save()
            if len(programs) > 1:
                log(f"{what}, tried on a batch of your images:")
                for line in precision.table(self.trials[what]):
                    log(line)
        elif what in self._to_tell and len(programs) > 1:
            chosen = precision.best(self.trials[what]).program
            log(f"{what}: {chosen}, as {self.path} has it")
        self._to_tell.discard(what)
        return precision.best(self.trials[what])

    def keep(self, phase: str, keep: CacheDecision) -> None:
        self.keeps[phase] = keep
        self._try_to_save()

    def _try_to_save(self) -> None:
        with suppress(OSError):  # it is tried again with each checkpoint
            self.save()

    def save(self) -> None:
        """Writes `plan.json`.

        Raises:
          OSError: it can't be written.
        """
        values: dict[str, Any] = {
            "recipe": digest(self.recipe),
            "chosen": {what: str(precision.best(t).program) for what, t in self.trials.items()},
            "tolerance": precision.TOLERANCE,
            "trials": {w: [dataclasses.asdict(t) for t in each] for w, each in self.trials.items()},
            "keeps": {name: dataclasses.asdict(keep) for name, keep in self.keeps.items()},
        }
        write_json(self.path, values)


def _trials(values: Any) -> list[PrecisionTrial]:
    """What was tried for one program.

    Raises:
      UserError: the values are no trials of this version, or none.
    """
    found = convert(values, tuple[PrecisionTrial, ...], "trials")
    require(bool(found), "trials is empty; allowed: one or more")
    for trial in found:
        choose(trial.program.policy, dict.fromkeys(PRECISIONS), "policy")
        speed = trial.images_per_second
        require(speed > 0, f"images_per_second={speed}; allowed: a number above 0")
    return list(found)


def _keep(value: Any) -> CacheDecision:
    """What is kept for one phase.

    Raises:
      UserError: the value is no such decision of this version.
    """
    found = convert(value, CacheDecision, "keep")
    sound = found.slots >= 0 and (found.views is None or found.views > 0)
    require(sound, f"slots={found.slots}, views={found.views}; allowed: 0 or more, 1 or more")
    return found
