"""Makes `.venv` from a lock file, once, whatever interrupts it and whoever else tries.

The folder is ours where `setup.lock` is in it. That file is locked while somebody works on the
folder, by pip too, so that a pip that outlives a killed parent still counts. The stamp is written
last; a folder without it is made again, since half of a package can look whole to pip.

Standard library only, and no syntax that Python 3.6 can't read: whoever has an old interpreter is
to meet one plain line, not a syntax error.
"""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
OURS, STAMP, LOG = (os.path.join(VENV, "setup." + end) for end in ("lock", "stamp", "log"))
CPU_LOCK, CUDA_LOCK = (os.path.join(ROOT, "requirements-%s.txt" % n) for n in ("cpu", "cuda"))

# What TensorFlow 2.21 has wheels for.
OLDEST, NEWEST = (3, 10), (3, 13)
MACHINES = ("x86_64", "aarch64")
VERSION = "%d.%d.%d" % tuple(sys.version_info[:3])


def prepared_python(missing):
    """Path of an interpreter in a complete `.venv`, which is made first where it is not there.

    Args:
      missing: requirements that the running interpreter does not meet, for the message.
    """
    try:
        if not (is_foreign() or is_complete()):
            set_up(missing)
        return PYTHON
    except KeyboardInterrupt:
        fail("interrupted; the next call starts the set-up of .venv again", status=130)
    except OSError as error:
        fail(
            "cannot use or make %s (%s); get the right to read it, or a writable folder with a few "
            "GB of space, or run this with a Python that has the packages: pip install -r %s"
            % (VENV, error.strerror or error, os.path.basename(wanted_lock()))
        )


def is_foreign():
    """Whether `.venv` was made by somebody else: it is used, but never changed."""
    if not os.path.isdir(VENV) or os.path.exists(OURS) or not os.listdir(VENV):
        return False
    if not os.access(PYTHON, os.X_OK):
        fail("%s is no usable environment; move it away and run this again" % VENV)
    return True


def is_complete():
    """Whether `.venv` was made to the end, from the lock file as it is now.

    One with CUDA serves a machine without a GPU too: machines that share a folder share it.
    """
    if not os.access(PYTHON, os.X_OK) or not os.path.exists(STAMP):
        return False
    with open(STAMP) as file:
        return file.read() in (stamp(wanted_lock()), stamp(CUDA_LOCK))


def stamp(lock):
    import hashlib

    with open(lock, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return "%s %s %s\n" % (os.path.basename(lock), digest, os.uname().machine)


def wanted_lock():
    """The lock file for this machine: with CUDA where there is an NVIDIA driver to use it."""
    return CUDA_LOCK if os.uname().machine == "x86_64" and has_nvidia_driver() else CPU_LOCK


def has_nvidia_driver():
    import ctypes

    try:
        return bool(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        return os.path.exists("/usr/lib/wsl/lib/libcuda.so.1")  # of WSL2, on no path of the loader


def set_up(missing):
    """Makes `.venv`, unless another call does so first."""
    import fcntl

    host = supported_python()
    os.makedirs(VENV, exist_ok=True)
    with open(OURS, "a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another call is making .venv; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        if not is_complete():
            make(host, wanted_lock(), missing, held.fileno())


def make(host, lock, missing, held):
    """Makes `.venv` with the interpreter `host`; pip inherits the descriptor `held`."""
    import shutil

    with open(lock, encoding="utf-8") as file:
        size = re.search(r"^# download:.*\b%s (\d+ MB)" % os.uname().machine, file.read(), re.M)
    say(
        "this Python (%s) lacks %s%s; making .venv with the packages, a download of %s"
        % (
            VERSION,
            missing[0],
            " and %d more" % (len(missing) - 1) if len(missing) > 1 else "",
            size.group(1) if size else "unknown size",
        )
    )
    for entry in os.scandir(VENV):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.path != OURS:  # others wait for it
            os.remove(entry.path)
    install(make_venv(host), lock, held)
    with open(STAMP + ".new", "w") as file:
        file.write(stamp(lock))
    os.replace(STAMP + ".new", STAMP)
    say(".venv is ready")


def make_venv(host):
    """Makes an empty environment with the interpreter `host`; returns the pip command for it."""
    options, pip = [], [PYTHON, "-I", "-m", "pip"]
    if run(host, "-I", "-c", "import ensurepip; ensurepip.version()").returncode:
        options, pip = ["--without-pip"], [host, "-m", "pip", "--python", PYTHON]
        if run(host, "-m", "pip", "--python", host, "--version").returncode:
            fail(
                "%s has neither ensurepip nor pip 22.3 or newer, so nothing can be installed; "
                "run: sudo apt-get install python3-venv, and then this again" % host
            )
    done = run(host, "-I", "-m", "venv", *options, VENV)
    if done.returncode:
        fail("%s could not make %s: %s" % (host, VENV, last_error(done.stdout + done.stderr)))
    return pip


def install(pip, lock, held):
    """Installs the lock file with the command `pip`; shows its progress on a terminal."""
    # On standard error, because standard output may be a file that waits for JSON.
    shown = bool(sys.stderr) and sys.stderr.isatty()
    # The lock file is complete, and pip before 23.1 goes astray where it resolves extras again.
    flags = ["--no-input", "--disable-pip-version-check", "--log", LOG]
    flags += ["install", "--no-deps", "--require-hashes", "-r", lock] + ["--quiet"] * (not shown)
    elsewhere = ("TARGET", "PREFIX", "ROOT", "REQUIREMENT", "CONSTRAINT")
    out = sys.stderr if shown else subprocess.DEVNULL
    environment = clean_environment(*("PIP_" + name for name in elsewhere))
    environment["PIP_USER"] = "0"
    done = run(*pip, *flags, stdout=out, pass_fds=(held,), env=environment)
    if done.returncode:
        say("pip: " + last_error(done.stderr))
        fail(
            "the packages could not be installed; make sure that there is room on the disk and "
            "that pip's package index can be reached, and run this again (%s has all that pip "
            "printed)" % LOG
        )


def last_error(output):
    """What pip or venv called an error last, with the lines below it, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no reason given"]
    errors = [i for i, line in enumerate(lines) if re.match(r"(\w*Error|ERROR|error):", line)]
    return " ".join(lines[(errors or [-1])[-1] :][:5])


def supported_python():
    """An interpreter that TensorFlow has a wheel for: the running one, or the newest on PATH."""
    import shutil

    reason = unsupported()
    if not reason:  # the one that made `.venv`, if that is the running one
        inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)
        return getattr(sys, "_base_executable", sys.executable) if inside else sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        python = shutil.which("python3.%d" % minor)
        # Started, not believed: the name may be a shim with nothing behind it.
        if python and run(python, os.path.abspath(__file__)).returncode == 0:
            return python
    return fail(
        "TensorFlow 2.21 has no wheel for %s; it needs CPython 3.10 to 3.13 on Linux with glibc, "
        "x86_64 or aarch64: install one, such as python3.12, so that it is found on PATH, and run "
        "this again" % reason
    )


def unsupported():
    """What about the running interpreter TensorFlow has no wheel for; None where it has one."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in MACHINES:
        return "%s on %s" % (sys.platform, machine)
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or not os.confstr("CS_GNU_LIBC_VERSION"):
        return "a Linux without glibc"
    free_threaded = "t" in getattr(sys, "abiflags", "")
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32 or free_threaded:
        return "this build of Python (%s %s)" % (sys.implementation.name, VERSION)
    supported = OLDEST <= tuple(sys.version_info[:2]) <= NEWEST
    return None if supported else "Python " + VERSION


def run(*command, stdout=subprocess.PIPE, **settings):
    """Runs a command away from the caller's folder and its modules."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=VENV if os.path.isdir(VENV) else ROOT,
        **{"env": clean_environment(), **settings},
    )


def clean_environment(*others):
    """The environment variables without those that lead an interpreter to other packages."""
    misleading = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", *others)
    return {name: value for name, value in os.environ.items() if name not in misleading}


def say(message):
    print("Unfreeze: " + message, file=sys.stderr, flush=True)


def fail(message, status=1):
    """Ends the program with one line."""
    say(message)
    sys.exit(status)


if __name__ == "__main__":
    # How supported_python() asks another interpreter about itself.
    sys.exit(unsupported())
