"""Where decoded images and outputs of frozen layers may be cached."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.runtime import background
from engine.runtime.free_memory import free_memory
from pipelines.pixel_cache import cache
from pipelines.pixel_cache.cache import CacheLocation


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
