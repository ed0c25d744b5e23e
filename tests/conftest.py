"""What all tests share: `--slow` and `--soak`, a quiet TensorFlow and the photographs."""

import os
from pathlib import Path

import pytest

# TensorFlow reads this once, when it is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parents[1]


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


@pytest.fixture(scope="session")
def cats_dogs() -> Path:
    """Folder of real photographs, `train/` and `validation/` inside; not part of the repository."""
    folder = ROOT.parent / "shared" / "data" / "cats_dogs"
    if not folder.is_dir():
        pytest.skip(f"needs the photographs in {folder.name}, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the classes blue and red: 26 noisy JPEG pictures of 40x36 pixels each."""
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
