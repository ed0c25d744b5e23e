"""TensorFlow's profiler over some steps: a record that is named, or why there is none."""

import pytest

from engine.runtime.profiler import Profiler


def run(profiler: Profiler, steps: int) -> None:
    for step in range(steps):
        profiler.before(step)
        profiler.after(step + 1)
    profiler.end(steps)


@pytest.mark.parametrize("asked", [(2, 3), (3, 9)])
def test_the_record_is_named_once(tmp_path, asked):
    said = []
    run(Profiler(asked, tmp_path, said.append), 4)
    folder = tmp_path / "plugins" / "profile"
    assert said == [f"the profile is written to {folder}"]
    assert list(folder.glob("*/*.xplane.pb"))


def test_steps_that_never_come_are_said_to(tmp_path):
    said = []
    run(Profiler((20, 30), tmp_path, said.append), 4)
    (line,) = said
    assert line.startswith("--profile_steps=20-30: nothing was recorded")
    assert line.endswith("the run's last step is 4")
    assert not list(tmp_path.iterdir())


def test_who_asks_for_none_hears_nothing(tmp_path):
    said = []
    run(Profiler(None, tmp_path, said.append), 4)
    assert not said
