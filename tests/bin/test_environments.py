"""Training where the system gives little: the same bits as elsewhere, and no word of complaint."""

from __future__ import annotations

import contextlib
import csv
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.runs.directory import RunDirectory
from tests.bin.programs import start
from tests.engine import tiny
from tests.engine.small_runs import same_end

pytestmark = pytest.mark.slow

FLAGS = (
    *("--backbone=tiny", "--weights=none", "--image_size=32", "--precision=float32"),
    *("--batch_size=8", "--validation_fraction=0.25", "--noreport"),
    *("--checkpoint_minutes=0", "--threads=2"),
)
EPOCHS = ("--phase=head(epochs=2)",)
MEMORY = 1_400_000_000  # bytes of the control group
SMALL_DISK = """
mount -t tmpfs -o size=1m none "$1" || exit 99
cd "$1"; shift
(
    until [ -e "$PLACE/fill" ]; do sleep 0.05; done
    head -c 2000000 /dev/zero > filler
    until [ -e "$PLACE/free" ]; do sleep 0.05; done
    rm filler
) 2> "$PLACE/errors" &
"$@"
status=$?
cp -r run "$PLACE/run"
exit $status
"""


@pytest.fixture(scope="module")
def data(coloured, tmp_path_factory) -> Path:
    """Class folders whose names need UTF-8, and a file whose name is none."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(coloured / "blue", folder / "blå 蓝")
    shutil.copytree(coloured / "red", folder / "red")
    os.rename(folder / "red" / "00.jpg", os.fsencode(folder) + b"/red/\xff\xfe.jpg")
    return folder


def trained(data: Path, run: Path, *flags: str, **settings) -> RunDirectory:
    """Runs the program to its end, which says nothing on the error stream."""
    flags = (*FLAGS, *(flags or EPOCHS), f"--data_dir={data}", f"--run_dir={run}")
    process = start("train", *flags, **settings)
    out, err = process.communicate(timeout=170)
    assert (process.returncode, err) == (0, ""), out
    return RunDirectory(run)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> RunDirectory:
    return trained(data, tmp_path_factory.mktemp("undisturbed") / "run")


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))


def close_streams() -> None:
    for number in range(3):
        os.close(number)


# Of the process before the program starts; its environment variables.
ENVIRONMENTS: dict[str, tuple[Callable[[], None] | None, dict[str, str]]] = {
    "24 open files": (limit_files, {}),
    "closed streams": (close_streams, {}),
    "ASCII": (None, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    # Nobody can write there, not even root.
    "read-only home": (None, {"HOME": "/proc/home", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}),
    "no temporary folder": (None, {"TMPDIR": "/proc/tmp"}),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_run_in_a_poor_environment_has_the_same_bits(data, undisturbed, tmp_path, name):
    prepare, variables = ENVIRONMENTS[name]
    env = tiny.environment(**variables)
    run = trained(data, tmp_path / "run", preexec_fn=prepare, env=env)
    assert same_end(run, undisturbed)


def test_run_goes_on_while_the_disk_is_full(data, undisturbed, tmp_path):
    """A small disk of its own is filled once training began, and freed once the run noticed."""
    command = ["unshare", "-rm", "true"]
    if not shutil.which("unshare") or subprocess.run(command, stderr=subprocess.PIPE).returncode:
        pytest.skip("needs mounts of its own: unshare -rm")
    (tmp_path / "disk").mkdir()
    process = start(
        *("train", *FLAGS, f"--data_dir={data}", "--run_dir=run", *EPOCHS),
        env=tiny.environment(PLACE=str(tmp_path)),
        wrapper=("unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(tmp_path / "disk")),
    )
    lines = []
    with process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("tiny at"):
                (tmp_path / "fill").touch()
            if "No space left on device" in line:
                (tmp_path / "free").touch()
    if process.returncode == 99:
        pytest.skip("a tmpfs can't be mounted")
    assert process.returncode == 0
    assert (tmp_path / "free").exists(), lines
    assert same_end(RunDirectory(tmp_path / "run"), undisturbed)


def make_control_group(memory: int) -> Path | None:
    """Makes a control group with a limit of memory, of version 2 or 1; None where that can't be."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        limit = "memory.max" if number == "0" else "memory.limit_in_bytes"
        top = Path("/sys/fs/cgroup", controllers)
        group = top / path.lstrip("/") / f"unfreeze_{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                (group / limit).write_text(str(memory))
                return group
            group.rmdir()
    return None


@pytest.fixture
def control_group() -> Iterator[Path]:
    group = make_control_group(MEMORY)
    if not group:
        pytest.skip("no control group of memory can be made here")
    yield group
    group.rmdir()


def test_more_pixels_than_a_control_group_has_memory_are_trained_on(control_group, tmp_path):
    """1.9 GB of decoded images, where 1.4 GB is all there is."""
    random = np.random.default_rng(0)
    for name in ("blue", "red"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(400):
            pixels = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    flags = ("--image_size=896", "--phase=head(epochs=1)", f"--cache_dir={tmp_path / 'cache'}")
    run = trained(
        *(tmp_path / "data", tmp_path / "run", *flags),
        preexec_fn=lambda: (control_group / "cgroup.procs").write_text(str(os.getpid())),
    )
    with open(run.history, newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < int(row["resident_bytes"]) < MEMORY
