"""The first look with a memory: an image is decoded once, for this run and for later ones.

What earlier runs have kept is taken over, image by image; only the others are decoded. So a
data set that grew by ten images decodes ten.
"""

from __future__ import annotations

import contextlib
import os
import threading

import numpy as np

from engine.core.text import byte_size
from pipelines.pixel_cache import pixel_files
from pipelines.pixel_cache.pixel_files import Kept, Part
from pipelines.pixel_cache.pixel_fill import Filling, of_kept
from pipelines.pixel_cache.pixel_plan import Job, Seen
from pipelines.pixel_cache.stamps import of_system
from pipelines.pixel_cache.store import Pixels

LEAST_URGENT = 19  # as `nice` counts


def look(job: Job) -> Seen:
    """Looks at every image, and keeps its pixels where that can be done; says what it does.

    Where they can't be kept, for want of space or of rights, the run goes on without.
    """
    shelves = _open_all(job)
    try:
        whole = _whole(job, shelves)
        if not whole:
            return _fill(job, shelves, _part(job))
        if job.fits:
            return _fill(job, [whole], None)
        _say_found(job)
        shelves.remove(whole)
        return _from_file(job, whole)
    finally:
        _close(shelves)


def find(job: Job) -> Seen | None:
    """What an earlier run has kept, read from its file; None where an image is missing there."""
    shelves = _open_all(job)
    try:
        if whole := _whole(job, shelves):
            shelves.remove(whole)
            return _from_file(job, whole)
        return None
    finally:
        _close(shelves)


def _open_all(job: Job) -> list[Kept]:
    """What is kept, that with the most of our images first."""
    if job.place.folder is None or not len(job.firsts):
        return []
    shelves = pixel_files.open_all(job.place.folder, job.definition, job.row_bytes)
    return sorted(shelves, key=lambda kept: -_known(job, kept))


def _known(job: Job, kept: Kept) -> int:
    return int(np.count_nonzero(kept.index.find(job.stamps) >= 0))


def _whole(job: Job, shelves: list[Kept]) -> Kept | None:
    """The one that holds all."""
    return shelves[0] if shelves and _known(job, shelves[0]) == len(job.firsts) else None


def _close(shelves: list[Kept]) -> None:
    for kept in shelves:
        kept.close()


def _from_file(job: Job, kept: Kept) -> Seen:
    return job.seen(kept.index, kept.index.find(job.stamps), of_kept(job, kept))


def _part(job: Job) -> Part | None:
    """Where the rows go on the disk; None where they can't."""
    if job.place.folder is None or not len(job.firsts):
        return None
    name = pixel_files.name(job.definition, job.stamps)
    try:
        return Part(job.place.folder, name, len(job.firsts), job.row_bytes)
    except OSError as error:
        _say_failed(job, error)
        return None


def _fill(job: Job, shelves: list[Kept], part: Part | None) -> Seen:
    """Copies, decodes, and leaves it to a thread to make a complete folder of the part."""
    filling = Filling(job, part)
    try:
        for kept in shelves:
            filling.copy(kept)
        _close(shelves)  # so that those can be removed that this one takes the place of
        if missing := int(np.count_nonzero(filling.missing)):
            filling.decode(lambda: _say_decoding(job, missing, part))
        else:
            _say_found(job)
    except BaseException:
        if part:
            part.discard()
        raise
    pixels = filling.pixels()
    if part and pixels:
        # A thread that the program waits for at its end; the training need not.
        pixels.saving = threading.Thread(target=_save, args=(job, filling, part, pixels))
        pixels.saving.start()
    elif part and filling.error:
        part.discard()
        _say_failed(job, filling.error)
    return job.seen(filling.index, np.arange(len(job.firsts)), pixels)


def _save(job: Job, filling: Filling, part: Part, pixels: Pixels) -> None:
    # A thread's own on Linux: this one takes the time that the training leaves.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_URGENT)
    try:
        if filling.memory is not None:
            part.write_all(filling.memory, job.place.give_way)
            job.place.give_way()  # to bring it to the disk takes long, too
        first = part.publish(filling.index, job.examples.take(job.firsts))
    except InterruptedError:  # the program ends
        part.discard()
        return
    except OSError as error:
        part.discard()
        _say_alone(job, error)
        return
    if first is None:
        if pixels.in_memory:
            part.close()
        with contextlib.suppress(OSError):
            pixel_files.remove_outlived(part.path, filling.index)
    elif not pixels.in_memory and np.array_equal(first.index.stamps, filling.index.stamps):
        pixels.move_to(first.pixels, first.lock)  # ours is gone from the disk once nobody reads it
    else:
        first.close()


def _say_found(job: Job) -> None:
    if job.firsts.size:
        where = "read into memory" if job.fits else "on the disk"
        size = byte_size(job.nbytes)
        job.say(f"{_images(job)} from the cache in {job.place.folder}, {size} {where}")


def _say_decoding(job: Job, count: int, part: Part | None) -> None:
    of = "" if count == len(job.firsts) else f"{count:,} of "
    if job.fits:
        kept = f", kept for later runs in {job.place.folder}" if part else ""
        job.say(f"decoding {of}{_images(job)} into memory, {byte_size(job.nbytes)}{kept}")
    elif part:
        job.say(f"decoding {of}{_images(job)} into {job.place.folder}, {byte_size(job.nbytes)}")
    elif job.place.folder is None:
        job.say(
            f"{_images(job)} take {byte_size(job.nbytes)}, more than --cache_memory allows, and no "
            "--cache_dir is given; every epoch decodes them"
        )


def _say_failed(job: Job, error: OSError) -> None:
    """That nothing can be written, and what it means."""
    if job.fits:
        _say_alone(job, error)
        return
    job.say(
        f"--cache_dir={job.place.folder}: {of_system(error)}; "
        f"{byte_size(job.nbytes)} of pixels can't "
        "be kept and every epoch decodes; make room, or give another --cache_dir or more "
        "--cache_memory"
    )


def _say_alone(job: Job, error: OSError) -> None:
    where = f"--cache_dir={job.place.folder}"
    job.say(f"{where}: {of_system(error)}; the pixels are kept for this run alone")


def _images(job: Job) -> str:
    height, width, _ = job.shape
    return f"{len(job.firsts):,} images at {height}x{width}"
