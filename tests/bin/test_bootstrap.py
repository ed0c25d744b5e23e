"""The set-up of `.venv`, with real interpreters, a real pip and one small package; no network.

Each test has a repository of its own, with copies of the two modules and a program that asks for
a package that nobody else has.
"""

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import _bootstrap
import _venv
import pytest

BIN = Path(_bootstrap.__file__).parent

PROGRAM = """#!/usr/bin/env python3
import _bootstrap

_bootstrap.ensure()

import os, sys

import engine
import unfreeze_probe

print(sys.prefix, os.environ.get("UNFREEZE_RESTARTED_IN"), *sys.argv[1:], sep="|")
"""


@pytest.fixture
def repository(tmp_path):
    """A small repository whose only requirement is the package unfreeze-probe."""
    root = tmp_path / "repo with space"
    for folder in ("bin", "engine/core", "wheels"):
        (root / folder).mkdir(parents=True)
    for module in ("_bootstrap.py", "_venv.py"):
        shutil.copy(BIN / module, root / "bin")
    (root / "engine" / "__init__.py").touch()
    shutil.copy(BIN.parent / "engine/core/streams.py", root / "engine/core")
    (root / "bin" / "hello").write_text(PROGRAM)
    (root / "setup.cfg").write_text("[options]\ninstall_requires =\n    unfreeze-probe>=1.0\n")
    write_locks(root, write_wheel(root / "wheels"))
    return root


def write_wheel(folder: Path) -> str:
    """Writes a wheel by hand, since to build one would need the network; returns its SHA-256."""
    info = "unfreeze_probe-1.0.dist-info"
    files = {
        "unfreeze_probe.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: unfreeze-probe\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / "unfreeze_probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def write_locks(root: Path, digest: str):
    machine = os.uname().machine
    lock = f"# download: {machine} 7 MB\nunfreeze-probe==1.0 --hash=sha256:{digest}\n"
    for name in ("cpu", "cuda"):
        (root / f"requirements-{name}.txt").write_text(lock)


def install_by_hand(root: Path, site: Path):
    """Puts the package into a folder of packages, without pip."""
    with zipfile.ZipFile(next((root / "wheels").glob("*.whl"))) as wheel:
        wheel.extractall(site)


def start(root: Path, *arguments, python=sys.executable, **changes) -> subprocess.Popen:
    """Starts the program with pip cut off from every index, from a folder that is not the root."""
    pip = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    wheels = {"PIP_FIND_LINKS": (root / "wheels").as_uri()}
    return subprocess.Popen(
        [str(python), str(root / "bin" / "hello"), *arguments],
        cwd=root.parent,
        env={**os.environ, **pip, **wheels, **changes},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def call(root: Path, *arguments, **options) -> tuple[int, str, str]:
    return finish(start(root, *arguments, **options))


def changed_python(folder: Path, change: str) -> Path:
    """A real interpreter that runs `change` whenever it starts."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "change.pth").write_text(f"import sys; {change}\n")
    return folder / "bin" / "python"


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert err.startswith("Unfreeze: ")
    return err


def test_environment_is_made_once_per_lock_file_and_the_program_restarted_in_it(repository):
    venv = repository / ".venv"
    status, out, err = call(repository, "a b", "--c=d")
    assert status == 0, err
    # The guard is removed again: programs that this one starts must not inherit it.
    assert out == f"{venv}|None|a b|--c=d\n"
    first, last = err.splitlines()
    assert "unfreeze-probe>=1.0" in first
    assert "7 MB" in first
    assert "ready" in last

    (venv / "left_over").touch()
    assert call(repository, "again") == (0, f"{venv}|None|again\n", "")
    assert (venv / "left_over").exists()

    for lock in repository.glob("requirements-*.txt"):
        lock.write_text(lock.read_text() + "# changed\n")
    status, _, err = call(repository)
    assert status == 0
    assert "making .venv" in err
    assert not (venv / "left_over").exists()


def test_interpreter_with_the_packages_is_used(repository, tmp_path):
    install_by_hand(repository, tmp_path / "site")
    result = call(repository, PYTHONPATH=str(tmp_path / "site"))
    assert result == (0, f"{sys.prefix}|None\n", "")
    assert not (repository / ".venv").exists()


@pytest.mark.parametrize(
    ("kill", "trace"),
    [
        pytest.param(os.killpg, "bin/python", marks=pytest.mark.slow),
        (os.killpg, "setup.log"),
        (os.kill, "setup.log"),  # its pip lives on, and is waited for
    ],
)
def test_next_call_finishes_a_killed_set_up(repository, kill, trace):
    venv = repository / ".venv"
    process = start(repository)
    until = time.monotonic() + 60
    while not (venv / trace).exists() and time.monotonic() < until:
        time.sleep(0.005)
    kill(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert (venv / trace).exists()
    assert not (venv / "setup.stamp").exists()

    status, out, err = call(repository)
    assert status == 0, err
    assert out.startswith(f"{venv}|")
    assert (venv / "setup.stamp").exists()


def test_second_call_waits_for_the_first(repository):
    results = [finish(process) for process in [start(repository), start(repository)]]
    assert [status for status, _, _ in results] == [0, 0], results
    together = "".join(err for _, _, err in results)
    assert together.count("making .venv with") == 1
    assert together.count("waiting") == 1
    assert [out for _, out, _ in results] == [f"{repository / '.venv'}|None\n"] * 2


def test_without_ensurepip_the_outer_pip_installs(repository, tmp_path):
    pip = pytest.importorskip("pip", "22.3", reason="needs a pip that can serve as the outer one")
    site = Path(pip.__file__).parents[1]
    change = f"sys.modules['ensurepip'] = None; sys.path.append({str(site)!r})"
    python = changed_python(tmp_path / "host", change)
    status, out, err = call(repository, python=python)
    assert status == 0, err
    assert out == f"{repository / '.venv'}|None\n"
    assert not list((repository / ".venv").glob("lib/python3*/site-packages/pip"))


def test_without_ensurepip_and_pip_one_line_names_the_apt_command(repository, tmp_path):
    python = changed_python(tmp_path / "host", "sys.modules['ensurepip'] = None")
    status, _, err = call(repository, python=python)
    assert status == 1
    assert "sudo apt-get install python3-venv" in err.splitlines()[-1]
    assert "Traceback" not in err


OLD = "sys.version_info = (3, 9, 18, 'final', 0)"


def test_unsupported_interpreter_is_refused_in_one_line(repository, tmp_path):
    python = changed_python(tmp_path / "host", OLD)
    status, _, err = call(repository, python=python, PATH=str(tmp_path))
    assert status == 1
    line = one_line(err)
    assert "Python 3.9.18" in line
    assert "3.10 to 3.13" in line
    assert not (repository / ".venv").exists()


def test_unsupported_interpreter_finds_a_supported_one_on_path(repository, tmp_path):
    python = changed_python(tmp_path / "host", OLD)
    (tmp_path / "python3.13").write_text("#!/bin/sh\nexit 127\n")  # as a shim with nothing behind
    (tmp_path / "python3.10").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name in ("python3.13", "python3.10"):
        (tmp_path / name).chmod(0o755)
    status, out, err = call(repository, python=python, PATH=str(tmp_path))
    assert status == 0, err
    assert out == f"{repository / '.venv'}|None\n"


def test_complete_environment_without_a_package_ends_in_an_error(repository):
    assert call(repository)[0] == 0
    for path in (repository / ".venv").glob("lib/python3*/site-packages/unfreeze_probe*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    status, _, err = call(repository)
    assert status == 1
    assert "lacks unfreeze-probe>=1.0" in one_line(err)


def test_environment_made_by_hand_is_used_and_not_changed(repository):
    venv = repository / ".venv"
    changed_python(venv, "pass")
    before = sorted(venv.rglob("*"))
    status, _, err = call(repository)
    assert status == 1
    assert "lacks unfreeze-probe>=1.0" in one_line(err)
    assert sorted(venv.rglob("*")) == before
    (site,) = venv.glob("lib/python3*/site-packages")
    install_by_hand(repository, site)
    assert call(repository) == (0, f"{venv}|None\n", "")


def test_failed_installation_ends_with_the_reason_and_a_next_step(repository):
    write_locks(repository, "0" * 64)
    status, _, err = call(repository)
    assert status == 1
    _, reason, step = err.splitlines()
    assert reason.startswith("Unfreeze: pip: ERROR: THESE PACKAGES DO NOT MATCH")
    assert "Expected sha256 0000" in reason
    assert "could not be installed" in step
    assert "THESE PACKAGES DO NOT MATCH" in (repository / ".venv" / "setup.log").read_text()


def test_every_program_starts_with_pythonsafepath(tmp_path):
    """Python then leaves out the program's own folder, where _bootstrap is."""
    programs = [path for path in BIN.iterdir() if path.is_file() and not path.suffix]
    assert len(programs) == 8
    started = [
        subprocess.Popen(
            [sys.executable, path, "--help"],
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in programs
    ]
    for process in started:
        out, err = process.communicate(timeout=100)
        assert (process.returncode, err, "usage: bin/" in out) == (0, "", True)


def test_unwritable_folder_is_named_in_one_line(repository):
    # A file in the place of the folder stops root too, whom a read-only folder would not.
    (repository / ".venv").touch()
    status, _, err = call(repository)
    assert status == 1
    assert f"cannot use or make {repository / '.venv'} (File exists)" in one_line(err)


def test_environment_closed_to_this_user_is_named_in_one_line(repository):
    """Root may enter it, so the interpreter inside is one that can't be started."""
    (repository / ".venv" / "bin").mkdir(parents=True)
    python = repository / ".venv" / "bin" / "python"
    python.write_bytes(b"no program")
    python.chmod(0o755)
    status, _, err = call(repository)
    assert (status, "python cannot be started (Exec format error)" in one_line(err)) == (1, True)
    if os.geteuid():
        (repository / ".venv").chmod(0)
        status, _, err = call(repository)
        assert (status, "(Permission denied); get the right" in one_line(err)) == (1, True)


@pytest.mark.parametrize("library", ["/usr/lib/wsl/lib/libcuda.so.1", None])
def test_driver_of_wsl_is_seen_though_the_loader_does_not_find_it(monkeypatch, library):
    def load(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(os.path, "exists", lambda path: path == library)
    assert _venv.has_nvidia_driver() == bool(library)
