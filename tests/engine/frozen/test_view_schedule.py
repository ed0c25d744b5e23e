"""Views: the epoch's own, some in turn, and how many of them are drawn anew."""

import fractions

import numpy as np
import pytest

from engine.frozen.view_schedule import ViewSchedule

FIRST = 3  # the epoch that the phase begins with
EXAMPLES = np.arange(4000)


def seen(made: ViewSchedule, epochs: int, examples=EXAMPLES) -> np.ndarray:
    """[epochs, examples]"""
    return np.stack([made(examples, FIRST + epoch) for epoch in range(epochs)])


def test_without_count_each_epoch_has_its_own_view():
    table = seen(ViewSchedule(FIRST), 5)
    assert table.dtype == np.int32
    assert np.array_equal(table, np.repeat(FIRST + np.arange(5)[:, None], len(EXAMPLES), 1))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_views_are_used_in_turn(count):
    table = seen(ViewSchedule(FIRST, count), 9)
    assert table.dtype == np.int32
    expected = [FIRST + epoch % count for epoch in range(9)]
    assert np.array_equal(table, np.repeat(np.array(expected)[:, None], len(EXAMPLES), 1))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_slots_are_used_in_turn(count):
    made = ViewSchedule(FIRST, count, refresh=0.3, group=8)
    for epoch, row in enumerate(seen(made, 9)):
        assert set(made.slot(row)) == {epoch % count}


@pytest.mark.parametrize(("count", "refresh"), [(4, 0.1), (4, 0.2), (2, 0.5), (3, 0.0), (1, 0.37)])
def test_fraction_refreshed_matches_refresh(count, refresh):
    """A slot is read every `count` epochs, and by then so many times the share has changed.

    The multiples of the golden ratio lie evenly: of G groups, the share in an interval differs from
    its length by less than (2 + log G) / G.
    """
    group = 4
    groups = len(EXAMPLES) // group
    table = seen(ViewSchedule(FIRST, count, refresh, group), 40)
    changed = (table[count:] != table[:-count])[:, ::group].mean(1)
    assert np.abs(changed - refresh * count).max() <= (2 + np.log(groups)) / groups


def test_each_group_is_refreshed_once_in_a_cycle():
    """Over 1 / refresh epochs each group is drawn anew once, for a single view."""
    table = seen(ViewSchedule(FIRST, 1, 0.25, 5), 5)[:, ::5]
    changes = (np.diff(table, axis=0) != 0).sum(0)
    assert set(changes) == {1}


@pytest.mark.parametrize("count", range(1, 8))
def test_refresh_of_one_in_count_makes_every_view_new(count):
    """refresh = 1 / count: just what drawing anew each epoch does."""
    table = seen(ViewSchedule(FIRST, count, 1 / count, 1), 100)
    assert all(len(set(column)) == 100 for column in table.T)


@pytest.mark.parametrize(("count", "refresh"), [(4, 0.1), (2, 0.5), (3, 1.0)])
def test_replaced_view_never_returns(count, refresh):
    table = seen(ViewSchedule(FIRST, count, refresh, 1), 60)
    for slot in range(count):
        assert (np.diff(table[slot::count], axis=0) >= 0).all()
    assert not {*table[0::count].flat} & {*table[1::count].flat}


@pytest.mark.parametrize("group", [1, 3, 32])
def test_group_is_refreshed_together(group):
    table = seen(ViewSchedule(FIRST, 2, 0.3, group), 12)
    for start in range(0, len(EXAMPLES), group):
        members = table[:, start : start + group]
        assert (members == members[:, :1]).all()
    assert len({row.tobytes() for row in table.T}) > 5, "groups are not all alike"


def test_views_depend_on_example_and_epoch_only():
    made, again = ViewSchedule(FIRST, 3, 0.2, 4), ViewSchedule(FIRST, 3, 0.2, 4)
    order = np.random.default_rng(0).permutation(EXAMPLES)
    for epoch in (30, 4, 17, 3):  # in any order
        together = made(EXAMPLES, epoch)
        assert np.array_equal(again(order, epoch), together[order])
        assert again([17], epoch) == together[17]


def test_generations_match_exact_arithmetic():
    """floor(refresh e + u) in fractions; u is the float that a group has, exactly."""
    golden = (5**0.5 - 1) / 2
    made = ViewSchedule(FIRST, 2, 0.1, 1)
    for epoch in range(0, 60, 7):
        got = made(EXAMPLES[:500], FIRST + epoch)
        for example, view in enumerate(got):
            offset = fractions.Fraction((example * golden) % 1)
            generation = (fractions.Fraction(1, 10) * epoch + offset) // 1
            assert view == FIRST + epoch % 2 + 2 * generation
