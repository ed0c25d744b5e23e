"""A wheel, built and installed into a fresh environment, works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The programs of a fresh environment that sees the packages of this one, not the code."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(place), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, cwd=place)
    (wheel,) = place.glob("unfreeze-*.whl")
    environment = place / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [*pip, "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, cwd=place)
    (site,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others))
    return environment / "bin"


def run(program: Path, *arguments: str, cwd: Path, status: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [program, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_installed_command_trains_and_evaluates_from_any_folder(installed, coloured, tmp_path):
    run(
        installed / "unfreeze",
        *("train", f"--data_dir={coloured}", "--run_dir=run", "--image_size=64", "--batch_size=8"),
        *("--phase=head(epochs=1, learning_rate=1e-2)", "--noreport"),
        cwd=tmp_path,
    )
    assert (tmp_path / "run" / "best.npz").is_file()
    assert "accuracy" in run(installed / "unfreeze", "evaluate", "--run_dir=run", cwd=tmp_path)


def test_installed_package_brings_flag_files_and_the_python_interface(installed, tmp_path):
    code = (
        "import unfreeze; print(unfreeze.__file__); "
        "print(unfreeze.recipe_from_flags('--flagfile=solar_cells.flags').data.location)"
    )
    file, location = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert not Path(file).is_relative_to(ROOT)
    assert location == "solar_cells"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ((), 0, "usage: unfreeze {train,evaluate,"),
        (("--version",), 0, "0.2.0\n"),
        (("train", "--help"), 0, "usage: "),
        (("trian",), 2, "did you mean 'train'?"),
        (("train", "--flagfile=solar_cels.flags"), 2, "did you mean 'solar_cells.flags'?"),
    ],
)
def test_installed_command_answers_in_one_line(installed, tmp_path, arguments, status, text):
    assert text in run(installed / "unfreeze", *arguments, cwd=tmp_path, status=status)
