"""What all tests share: `--slow` and `--soak`, TensorFlow's log level, images and a trained run."""

import ctypes
import dataclasses
import gc
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

# TensorFlow reads these once, when it is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers would wait for each other's threads
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
# These files take the longest, so that no worker is left alone with one of them at the end.
LONGEST = (
    "test_resume.py",
    "test_two_devices.py",
    "test_benchmark.py",
    "test_memory_probe.py",
    "test_export.py",
    "test_killed.py",
    "test_predict_to_file.py",
    "test_doctor.py",
    "test_card.py",
    "test_loop.py",
    "test_phase_benchmark.py",
    "test_bootstrap.py",
    "test_saved_model.py",
    "test_parity.py",
    "test_store.py",
)

OPTIONS = {
    "slow": "run the tests that take minutes as well",
    "soak": "run those as well that kill runs time and again",
}


def pytest_addoption(parser):
    for name, what in OPTIONS.items():
        parser.addoption(f"--{name}", action="store_true", help=what)


def pytest_collection_modifyitems(config, items):
    for name in (name for name in OPTIONS if not config.getoption(f"--{name}")):
        for item in items:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"{name}: runs with --{name}"))
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Returns memory to the system: glibc keeps what threads freed, gigabytes after an export."""
    if item.get_closest_marker("slow"):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def pytest_terminal_summary(terminalreporter):
    """Adds how many cases the fuzz tests tried; workers send that with the outcomes of tests."""
    outcomes = (one for group in terminalreporter.stats.values() for one in group)
    pairs = (pair for one in outcomes for pair in getattr(one, "user_properties", ()))
    counts = {name: count for name, count in pairs if name.startswith("fuzz ")}
    if counts:
        total = f"{sum(counts.values()):,} cases in {len(counts)} readers"
        terminalreporter.write_line(f"fuzz: {total}")


@pytest.fixture(scope="session", autouse=True)
def session(tmp_path_factory):
    """Commands find TensorFlow started, the backbone tiny, and a cache of the session's own.

    Tests of every backbone are collected before, and go without tiny.
    """
    from engine.runtime import tensorflow_setup
    from tests.engine import tiny

    tiny.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_setup, "start_tensorflow", lambda *_, **__: 2)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cats_dogs() -> Path:
    """Folder of real photographs, `train/` and `validation/` inside; not part of the repository."""
    folder = ROOT.parent / "shared" / "data" / "cats_dogs"
    if not folder.is_dir():
        pytest.skip(f"needs the photographs in {folder.name}, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the classes blue and red: 26 noisy JPEG images of 40x36 pixels each."""
    import numpy as np
    from PIL import Image

    place = tmp_path_factory.mktemp("coloured")
    random = np.random.default_rng(0)
    for channel, name in ((2, "blue"), (0, "red")):
        (place / name).mkdir()
        for number in range(26):
            pixels = random.integers(0, 160, (36, 40, 3))
            pixels[..., channel] += 95
            Image.fromarray(pixels.astype(np.uint8)).save(place / name / f"{number:02}.jpg")
    return place


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A finished run of `coloured`, which tests only read.

    job: with the network as it ended. watcher: what was logged.
    result: the values of result.json.
    """

    path: Path
    job: Any
    watcher: Any
    result: dict[str, Any]


@pytest.fixture(scope="session")
def trained_run(coloured, tmp_path_factory) -> TrainedRun:
    """Trained once a session: by bin/train's function, with all that it writes."""
    from engine.commands.train import TrainOptions, train
    from engine.training import loop
    from tests.engine.small_runs import Watcher, small_recipe

    folder, watcher, jobs, train_job = tmp_path_factory.mktemp("trained"), Watcher(), [], loop.train
    options = TrainOptions(
        small_recipe(coloured),
        folder / "run",
        log_every_steps=1,
        price_per_hour=0.5,
        command="bin/train --backbone=tiny",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", lambda job: jobs.append(job) or train_job(job))
        result = train(options, watcher).result
    return TrainedRun(options.run_dir, jobs[0], watcher, result)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process, without signal handlers; `said` has what it printed."""
    from engine.cli import main as cli_main
    from engine.runtime.shutdown import Shutdown

    monkeypatch.setattr(cli_main, "listen_for_shutdown", lambda *_: Shutdown())

    def called(name: str, *arguments) -> str:
        try:
            command = importlib.import_module(f"engine.cli.{name}")
            command.main([f"bin/{name}", *map(str, arguments)])
        finally:
            called.said = capsys.readouterr()
        return called.said.out

    return called


@pytest.fixture
def write(tmp_path):
    """Writes a flag file and gives the flag that names it."""

    def make(content: str | bytes, name: str = "my.flags") -> str:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return f"--flagfile={tmp_path / name}"

    return make
