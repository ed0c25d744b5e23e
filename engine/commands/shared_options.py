"""Options that several commands have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.core.options import check_options, option
from engine.runtime import background
from engine.runtime.free_memory import free_memory
from pipelines.pixel_cache import cache
from pipelines.pixel_cache.cache import CacheLocation

Log = Callable[[str], None]


def ignore(line: str) -> None:
    """A log that drops every line."""


@dataclasses.dataclass(frozen=True)
class CacheOptions:
    """What caches may take.

    folder: on disk, for later runs and for what memory can't hold; None for no folder.
    memory: bytes; None for a third of the memory that is free when a run starts.
    """

    folder: Path | None = dataclasses.field(default_factory=cache.default_folder)
    memory: int | None = None

    def location(self) -> CacheLocation:
        """The same with the bytes of memory of now."""
        memory = free_memory() // 3 if self.memory is None else self.memory
        return CacheLocation(self.folder, memory, background.yield_to_foreground)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """What every command has.

    Raises:
      UserError: a value is not allowed, or values do not go together.
    """

    threads: int | None = option(None, "CPU threads; default: all cores", minimum=1)

    def __post_init__(self) -> None:
        check_options(self)


def price_per_hour_option() -> Any:
    return option(None, "of this machine, in any currency", minimum=0)


def tta_option() -> Any:
    return option(
        None,
        "test-time augmentation, the mean over views of an image: flip for the image and its "
        "mirror image; K, 2 or more, for the image and K - 1 draws of the run's own augmentation",
        minimum=2,
        word="flip",
    )
