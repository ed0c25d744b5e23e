"""Who belongs together, and when that does harm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipelines.doctor import copies
from pipelines.examples import from_columns

EDGES = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40)


@settings(deadline=None, max_examples=60)
@given(edges=EDGES)
def test_groups_are_the_connected_components(edges):
    pairs = np.array([edge for edge in edges if edge[0] != edge[1]], np.int64).reshape(-1, 2)
    found = {tuple(group.tolist()) for group in copies.groups(30, pairs)}
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (30, 30))
    _, labels = connected_components(links, directed=False)
    want = {tuple(np.flatnonzero(labels == one).tolist()) for one in set(labels.tolist())}
    assert found == {group for group in want if len(group) > 1}


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
