"""What tests of the pixel cache begin with."""

from pathlib import Path

import pytest

from tests.pipelines.cached import write


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Ten pictures."""
    return write(tmp_path / "pictures", 10)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
