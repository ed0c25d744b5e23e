"""Views: the epoch's own, some in turn, and how many of them are redrawn."""

import fractions

import numpy as np
import pytest

from engine.frozen.view_schedule import ViewSchedule

FIRST = 3  # the epoch that the phase begins with
EXAMPLES = np.arange(4000)


def views_by_epoch(schedule: ViewSchedule, epochs: int) -> np.ndarray:
    """int32 [epochs, examples]"""
    return np.stack([schedule(EXAMPLES, FIRST + epoch) for epoch in range(epochs)])


@pytest.mark.parametrize("count", [None, 1, 2, 4])
def test_views_without_refresh_are_the_epochs_own_or_used_in_turn(count):
    views = views_by_epoch(ViewSchedule(FIRST, count), 9)
    assert views.dtype == np.int32
    expected = FIRST + np.arange(9) % (count or 9)
    assert np.array_equal(views, np.repeat(expected[:, None], len(EXAMPLES), 1))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_slots_are_used_in_turn(count):
    schedule = ViewSchedule(FIRST, count, refresh=0.3, group=8)
    for epoch, views in enumerate(views_by_epoch(schedule, 9)):
        assert set(schedule.slot(views)) == {epoch % count}


@pytest.mark.parametrize(("count", "refresh"), [(4, 0.1), (4, 0.2), (2, 0.5), (3, 0.0), (1, 0.37)])
def test_fraction_refreshed_matches_refresh(count, refresh):
    """A slot is read every `count` epochs, and by then so many times the share has changed.

    The multiples of the golden ratio lie evenly: of G groups, the share in an interval differs from
    its length by less than (2 + log G) / G.
    """
    group = 4
    groups = len(EXAMPLES) // group
    views = views_by_epoch(ViewSchedule(FIRST, count, refresh, group), 40)
    changed = (views[count:] != views[:-count])[:, ::group].mean(1)
    assert np.abs(changed - refresh * count).max() <= (2 + np.log(groups)) / groups


@pytest.mark.parametrize("count", range(1, 8))
def test_refresh_of_one_in_count_makes_every_view_new(count):
    views = views_by_epoch(ViewSchedule(FIRST, count, 1 / count, 1), 100)
    assert all(len(set(column)) == 100 for column in views.T)


@pytest.mark.parametrize(("count", "refresh"), [(4, 0.1), (2, 0.5), (3, 1.0)])
def test_replaced_view_never_returns(count, refresh):
    views = views_by_epoch(ViewSchedule(FIRST, count, refresh, 1), 60)
    for slot in range(count):
        assert (np.diff(views[slot::count], axis=0) >= 0).all()
    assert not {*views[0::count].flat} & {*views[1::count].flat}


@pytest.mark.parametrize("group", [1, 3, 32])
def test_group_is_refreshed_together(group):
    views = views_by_epoch(ViewSchedule(FIRST, 2, 0.3, group), 12)
    for start in range(0, len(EXAMPLES), group):
        members = views[:, start : start + group]
        assert (members == members[:, :1]).all()
    assert len({row.tobytes() for row in views.T}) > 5, "groups are not all alike"


def test_views_depend_on_example_and_epoch_only():
    schedule, order = ViewSchedule(FIRST, 3, 0.2, 4), np.random.default_rng(0).permutation(EXAMPLES)
    for epoch in (30, 4, 17, 3):  # in any order
        together = schedule(EXAMPLES, epoch)
        assert np.array_equal(schedule(order, epoch), together[order])
        assert schedule([17], epoch) == together[17]


def test_generations_match_exact_arithmetic():
    """floor(refresh e + u) in fractions; u is the float that a group has, exactly."""
    golden = (5**0.5 - 1) / 2
    schedule = ViewSchedule(FIRST, 2, 0.1, 1)
    for epoch in range(0, 60, 7):
        views = schedule(EXAMPLES[:500], FIRST + epoch)
        for example, view in enumerate(views):
            offset = fractions.Fraction((example * golden) % 1)
            generation = (fractions.Fraction(1, 10) * epoch + offset) // 1
            assert view == FIRST + epoch % 2 + 2 * generation
