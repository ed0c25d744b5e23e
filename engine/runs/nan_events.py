"""Non-finite losses of a run, `nan_events.json`: where each was, and what it does to the rate.

The learning rate of a step depends on this file alone, so a run that is killed afterwards resumes
with the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from engine.core import digests
from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError
from engine.core.files import write_json
from engine.core.recipe import Phase
from engine.runs.directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class NanEvent:
    """A step with a non-finite loss, after which the run was rolled back."""

    phase: str
    step: int  # with that loss
    since: int  # the step from which on the learning rate is halved


def read_nan_events(run: RunDirectory) -> list[NanEvent]:
    """Returns the events of the run so far.

    Raises:
      UserError: the file can't be read; without it the learning rates would differ.
    """
    try:
        entries = parse_json(digests.read(run.nan_events))
        return list(convert(entries, tuple[NanEvent, ...], "nan_events"))
    except FileNotFoundError:
        return []
    except (OSError, UserError) as error:
        raise UserError(
            f"{run.nan_events}: can't be read ({error}); start over with --overwrite"
        ) from None


def write_nan_events(run: RunDirectory, events: Sequence[NanEvent]) -> None:
    values = [dataclasses.asdict(event) for event in events]
    write_json(run.nan_events, values, digests.write)


def reduce_rate(
    rate: Callable[[int], float], events: Sequence[NanEvent], phase: Phase, start: int
) -> Callable[[int], float]:
    """Halves a schedule once for each event of the phase, from the event's step on.

    Args:
      rate: the learning rate by step of the phase.
      start: the run's step at which the phase starts.
    """
    halved = [event.since - start for event in events if event.phase == phase.name]
    return lambda step: rate(step) * 0.5 ** sum(since <= step for since in halved)
