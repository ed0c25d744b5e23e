"""Files of the same bytes, against a comparison of everything with everything."""

import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.identical_files import SAMPLE_BYTES, first_identical_file

# Alike in size, in size and sample, or in all; None is no file at all.
big = st.builds(
    lambda start, middle: start + middle * (2 * SAMPLE_BYTES) + b"end",
    st.sampled_from([b"one", b"two"]),
    st.sampled_from([b"a", b"b"]),
)
contents = st.none() | st.sampled_from([b"", b"a", b"b", b"ab"]) | big
folders = st.lists(contents, max_size=12)


def written(place: str, folder: list) -> np.ndarray:
    """Paths, in their order."""
    paths = [Path(place) / str(number) for number in range(len(folder))]
    for path, content in zip(paths, folder, strict=True):
        if content is not None:
            path.write_bytes(content)
    return np.array([str(path) for path in paths], dtype=object)


@settings(deadline=None, max_examples=60)
@given(folders, st.data())
def test_first_identical_file_is_found_and_all_of_those_that_are_apart(folder, data):
    expected = [folder.index(one) if one else place for place, one in enumerate(folder)]
    sides = data.draw(st.lists(st.integers(0, 2), min_size=len(folder), max_size=len(folder)))
    with tempfile.TemporaryDirectory() as place:
        paths = written(place, folder)
        places = first_identical_file(paths)
        apart = first_identical_file(paths, np.array(sides, np.int8))
    assert places.dtype == np.int64
    assert places.tolist() == expected
    for index, (first, one) in enumerate(zip(apart, folder, strict=True)):
        assert first in (index, expected[index])
        alike = [side for side, other in zip(sides, folder, strict=True) if one and other == one]
        assert first == expected[index] or len(set(alike)) <= 1


def test_links_are_identical_to_their_targets_and_pipes_are_not_waited_for(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.link(tmp_path / "file", tmp_path / "hard")
    for name in ("pipe", "other"):
        os.mkfifo(tmp_path / name)
    paths = [tmp_path / name for name in ("pipe", "file", "other", "link", "hard", ".")]
    places = first_identical_file(np.array([str(path) for path in paths], dtype=object))
    assert places.tolist() == [0, 1, 2, 1, 1, 5]
