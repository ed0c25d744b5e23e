"""TensorFlow's profiler over some steps: a profile whose path is logged, or why there is none."""

import pytest

from engine.runtime.profiler import Profiler


def run(profiler: Profiler, steps: int) -> None:
    for step in range(steps):
        profiler.before_step(step)
        profiler.after_step(step + 1)
    profiler.end_run(steps)


@pytest.mark.parametrize("steps", [(2, 3), (3, 9)])
def test_profile_is_written_and_logged_once(tmp_path, steps):
    lines = []
    run(Profiler(steps, tmp_path, lines.append), 4)
    folder = tmp_path / "plugins" / "profile"
    assert lines == [f"the profile is written to {folder}"]
    assert list(folder.glob("*/*.xplane.pb"))


def test_steps_that_never_come_are_logged(tmp_path):
    lines = []
    run(Profiler((20, 30), tmp_path, lines.append), 4)
    (line,) = lines
    assert line.startswith("--profile_steps=20-30: nothing was profiled")
    assert line.endswith("its last step is 4")
    assert not list(tmp_path.iterdir())


def test_without_steps_nothing_is_logged(tmp_path):
    lines = []
    run(Profiler(None, tmp_path, lines.append), 4)
    assert not lines
