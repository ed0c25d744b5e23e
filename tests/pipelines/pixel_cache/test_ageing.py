"""Caches that were used long ago, or are too many, make room for a new one."""

from __future__ import annotations

import os
import time

import pytest

from pipelines.pixel_cache import ageing
from tests.pipelines.cached import build, taken, write

pytestmark = pytest.mark.usefixtures("quick_decoding")

DAY = 24 * 3600


def paths_in(cache) -> set:
    return {stored.path for stored in ageing.list_caches(cache)}


@pytest.fixture
def fill(tmp_path, cache):
    """Fills the cache with images of their own; last used so many days ago."""

    def filled(name: str, days: float = 0):
        before = paths_in(cache)
        build(write(tmp_path / name, 3), cache)
        (new,) = paths_in(cache) - before
        os.utime(new, (time.time() - days * DAY,) * 2)
        return new

    return filled


@pytest.fixture
def use(tmp_path, cache):
    """Builds a cache that is there already."""
    return lambda name: build(sorted((tmp_path / name).iterdir()), cache, memory=0)


def test_cache_unused_for_long_is_removed_before_a_new_one(fill, use, cache):
    old, recent = fill("old", ageing.MAX_DAYS + 1), fill("recent", ageing.MAX_DAYS - 1)
    used = fill("used", ageing.MAX_DAYS + 1)
    use("used")
    new = fill("new")
    assert paths_in(cache) == {recent, used, new}
    assert [stored.path for stored in ageing.list_caches(cache)][-1] == recent
    assert not old.exists()


def test_cache_that_a_run_uses_stays_however_old(fill, use, cache):
    old = fill("old", 400)
    reader = use("old")
    os.utime(old, (0, 0))
    fill("new")
    assert old.exists()
    assert len(taken(reader)) == 3


def test_caches_together_take_a_share_of_the_disk(fill, cache, monkeypatch):
    oldest, middle, latest = (fill(f"{days}", days) for days in (3, 2, 1))
    size = max(stored.nbytes for stored in ageing.list_caches(cache))
    system = os.statvfs(cache)
    share = 3.5 * size / (system.f_blocks * system.f_frsize)
    monkeypatch.setattr(ageing, "MAX_SHARE", share)
    new = fill("new")
    assert paths_in(cache) == {middle, latest, new}
    assert not oldest.exists()


def test_cache_larger_than_the_disk_removes_no_other(fill, cache):
    old, recent = fill("old", ageing.MAX_DAYS + 1), fill("recent", 1)
    ageing.make_room(cache, 2**60)
    assert paths_in(cache) == {recent}
    assert not old.exists()
