"""Groups of duplicates, and the harm that they do."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.doctor import duplicates
from pipelines.sources.examples import from_columns

EDGES = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40)


@settings(deadline=None, max_examples=200)
@example(edges=[(0, 4), (1, 3), (2, 4), (2, 5), (3, 5)])
@given(edges=EDGES)
def test_connected_groups_agree_with_merged_sets(edges):
    """Against sets that are merged one pair after the other."""
    pairs = np.array([edge for edge in edges if edge[0] != edge[1]], np.int64).reshape(-1, 2)
    groups = [tuple(group.tolist()) for group in duplicates.connected_groups(30, pairs)]
    sets = [{number} for number in range(30)]
    for one, other in pairs.tolist():
        merged = sets[one] | sets[other]
        for number in merged:
            sets[number] = merged
    assert groups == sorted({tuple(sorted(group)) for group in sets if len(group) > 1})


def test_groups_of_equal_values_ignore_negative_ones():
    groups = duplicates.groups_of_equal(np.array([5, -1, 7, 5, -1, 8, 7, 5]))
    assert [group.tolist() for group in groups] == [[0, 3, 7], [2, 6]]
    assert duplicates.groups_of_equal(np.array([], np.int64)) == []


@pytest.mark.parametrize(
    ("labels", "splits", "want"),
    [
        ((0, 0), (0, 0), "duplicates"),
        ((0, 0), (1, 2), "duplicates"),
        ((0, 0), (0, 1), "duplicates_across_splits"),
        ((0, 0), (0, 2), "duplicates_across_splits"),
        ((0, 1), (0, 0), "duplicates_of_other_label"),
        ((0, 1), (0, 2), "duplicates_of_other_label"),
    ],
)
def test_duplicates_are_sorted_by_the_harm_they_do(labels, splits, want):
    examples = from_columns(
        ["a.jpg", "b.jpg"], labels, ("cats", "dogs"), keys=["a", "b"], splits=splits
    )
    (finding,) = duplicates.duplicate_findings(examples, [np.array([0, 1])], "duplicates")
    assert finding.name == want
    assert finding.cases[0].examples == (0, 1)
    assert finding.cases[0].places[0].startswith("a.jpg (")
