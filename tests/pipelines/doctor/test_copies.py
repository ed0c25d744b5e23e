"""Who belongs together, and when that does harm."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.doctor import copies
from pipelines.sources.examples import from_columns

EDGES = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40)


@settings(deadline=None, max_examples=200)
@example(edges=[(0, 4), (1, 3), (2, 4), (2, 5), (3, 5)])
@given(edges=EDGES)
def test_groups_are_what_pairs_join(edges):
    """Against sets that are merged one pair after the other."""
    pairs = np.array([edge for edge in edges if edge[0] != edge[1]], np.int64).reshape(-1, 2)
    found = [tuple(group.tolist()) for group in copies.groups(30, pairs)]
    sets = [{number} for number in range(30)]
    for one, other in pairs.tolist():
        merged = sets[one] | sets[other]
        for number in merged:
            sets[number] = merged
    assert found == sorted({tuple(sorted(group)) for group in sets if len(group) > 1})


def test_the_same_bytes_are_those_of_equal_fingerprints_and_broken_ones_have_none():
    found = copies.of_same_bytes(np.array([5, -1, 7, 5, -1, 8, 7, 5]))
    assert [group.tolist() for group in found] == [[0, 3, 7], [2, 6]]
    assert copies.of_same_bytes(np.array([], np.int64)) == []


@pytest.mark.parametrize(
    ("labels", "splits", "want"),
    [
        ((0, 0), (0, 0), "copies"),
        ((0, 0), (1, 2), "copies"),
        ((0, 0), (0, 1), "copies_across_parts"),
        ((0, 0), (0, 2), "copies_across_parts"),
        ((0, 1), (0, 0), "copies_of_other_label"),
        ((0, 1), (0, 2), "copies_of_other_label"),
    ],
)
def test_a_group_is_told_by_what_harm_it_does(labels, splits, want):
    examples = from_columns(
        ["a.jpg", "b.jpg"], labels, ("cats", "dogs"), keys=["a", "b"], splits=splits
    )
    (found,) = copies.findings(examples, [np.array([0, 1])], "copies")
    assert found.name == want
    assert found.entries[0].examples == (0, 1)
    assert found.entries[0].places[0].startswith("a.jpg (")
