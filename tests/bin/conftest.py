"""What tests of whole programs share."""

from __future__ import annotations

from pathlib import Path

import _setup
import pytest

from engine.stopping import Stop
from tests.bin.programs import program
from tests.bin.serving import CLASSES, served


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Pictures are kept here, and not in the cache of whoever runs the tests."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        yield place


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a program in this process, where TensorFlow is at work already."""
    monkeypatch.setattr(_setup, "start_tensorflow", lambda *_: 2)
    monkeypatch.setattr(_setup, "stop", lambda *_: Stop())  # signals are for the tests to have

    def called(name: str, *arguments) -> str:
        try:
            program(name).main([f"bin/{name}", *map(str, arguments)])
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


@pytest.fixture(scope="module")
def made_run(tmp_path_factory) -> Path:
    """With ImageNet's features and a head by chance."""
    from engine.rules import Rule
    from tests.engine import small
    from tests.engine.serving import served_run

    place = tmp_path_factory.mktemp("served") / "run"
    recipe = small.recipe(backbone="efficientnet_lite0", image_size=(64, 64), weights="imagenet")
    return served_run.make(place, recipe, CLASSES, Rule(temperature=1.5)).path


@pytest.fixture(scope="module")
def service(made_run):
    with served(f"--run_dir={made_run}") as it:
        yield it
        status, out, err = it.end()
        assert (status, out, err) == (0, "", ""), "whatever was sent to it"
