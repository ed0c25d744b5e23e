"""Makes `.venv` from a lock file, once, whatever interrupts it and whoever else tries.

The folder is ours where `setup.lock` lies in it. That file is held by flock while somebody works
on the folder, by pip too, so that a pip that outlives a killed parent still counts. The stamp is
written last, so that a folder without it is unfinished. An unfinished one is made anew: half
of a package can look whole to pip.

As in `_bootstrap`, no syntax that Python 3.6 can't read.
"""

import os
import re
import sys

from _bootstrap import ROOT, VENV, clean_environment, fail

PYTHON = os.path.join(VENV, "bin", "python")
OURS = os.path.join(VENV, "setup.lock")
STAMP = os.path.join(VENV, "setup.stamp")
LOG = os.path.join(VENV, "setup.log")

CPU_LOCK = os.path.join(ROOT, "requirements-cpu.txt")
CUDA_LOCK = os.path.join(ROOT, "requirements-cuda.txt")

# What TensorFlow 2.21 has wheels for.
OLDEST, NEWEST = (3, 10), (3, 13)
MACHINES = ("x86_64", "aarch64")

# The first with `pip --python`.
OLDEST_PIP = (22, 3)


def prepared_python(missing):
    """Path of an interpreter in a complete `.venv`, which is made first where it is not there.

    Args:
      missing: requirements that the running interpreter does not meet, for the message.
    """
    try:
        if is_foreign() or is_complete():
            return PYTHON
        return set_up(missing)
    except KeyboardInterrupt:
        fail("interrupted; the next call starts the set-up of .venv again", status=130)
    except OSError as error:
        fail(
            "cannot make %s (%s); give it a writable folder with a few GB of space, or run this "
            "with a Python that has the packages: pip install -r %s"
            % (VENV, error.strerror or error, os.path.basename(wanted_lock()))
        )


def is_foreign():
    """Whether `.venv` was made by somebody else: it is used, but never changed."""
    if not os.path.isdir(VENV) or os.path.exists(OURS) or not os.listdir(VENV):
        return False
    if not os.access(PYTHON, os.X_OK):
        fail("%s is no environment that could be used; move it away and run this again" % VENV)
    return True


def is_complete():
    """Whether `.venv` was made to the end, from the lock file as it is now.

    An environment with CUDA serves a machine without a GPU as well: where two machines share a
    folder, they don't take turns in making it anew.
    """
    if not os.access(PYTHON, os.X_OK):  # or its interpreter has been removed
        return False
    try:
        with open(STAMP) as file:
            return file.read() in (stamp(wanted_lock()), stamp(CUDA_LOCK))
    except FileNotFoundError:
        return False


def stamp(lock):
    import hashlib

    with open(lock, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return "%s %s %s\n" % (os.path.basename(lock), digest, os.uname().machine)


def wanted_lock():
    """The lock file for this machine: with CUDA where there is an NVIDIA driver to use it."""
    cuda = os.uname().machine == "x86_64" and has_nvidia_driver()
    return CUDA_LOCK if cuda else CPU_LOCK


def has_nvidia_driver():
    import ctypes

    traces = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")
    if any(os.path.exists(path) for path in traces):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def set_up(missing):
    """Makes `.venv`, unless another call does so first; returns its interpreter."""
    import fcntl

    host = supported_python()
    os.makedirs(VENV, exist_ok=True)
    held = os.open(OURS, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another call is making .venv; waiting for it")
        fcntl.flock(held, fcntl.LOCK_EX)
    if not is_complete():
        make(host, wanted_lock(), missing, held)
    os.close(held)
    return PYTHON


def make(host, lock, missing, held):
    more = ", %d more" % (len(missing) - 1) if len(missing) > 1 else ""
    say(
        "this Python (%s) lacks packages (%s%s); making .venv with them, a download of %s"
        % (version_text(), missing[0], more, download_size(lock))
    )
    clear()
    install(make_venv(host), lock, held)
    with open(STAMP + ".new", "w") as file:
        file.write(stamp(lock))
    os.replace(STAMP + ".new", STAMP)
    say(".venv is ready")


def clear():
    """Empties `.venv`; the file that others wait at stays."""
    import shutil

    for entry in os.scandir(VENV):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.path != OURS:
            os.remove(entry.path)


def make_venv(host):
    """Makes an empty environment with the interpreter `host`; returns the pip command for it."""
    options = []
    pip = [PYTHON, "-I", "-m", "pip"]
    if run(host, "-I", "-c", "import ensurepip; ensurepip.version()").returncode:
        options = ["--without-pip"]
        pip = [host, "-m", "pip", "--python", PYTHON]
    if options and pip_version(host) < OLDEST_PIP:
        fail(
            "%s has neither ensurepip nor pip %d.%d or newer, so nothing can be installed; "
            "run: sudo apt-get install python3-venv, and then this again" % (host, *OLDEST_PIP)
        )
    made = run(host, "-I", "-m", "venv", *options, VENV)
    if made.returncode:
        fail("%s could not make %s: %s" % (host, VENV, last_error(made.stdout + made.stderr)))
    return pip


def pip_version(python):
    """Version of the pip that `python` has, as (major, minor); (0, 0) where it has none."""
    match = re.match(r"pip (\d+)\.(\d+)", run(python, "-m", "pip", "--version").stdout)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def install(pip, lock, held):
    """Installs the lock file with the command `pip`; shows its progress on a terminal."""
    import subprocess

    # On standard error, because standard output may be a file that waits for JSON.
    shown = sys.stderr.isatty()
    command = [*pip, "--no-input", "--disable-pip-version-check", "--log", LOG, "install"]
    # The lock file is complete, and pip before 23.1 goes astray where it resolves extras again.
    command += ["--no-deps", "--require-hashes", "-r", lock]
    command += [] if shown else ["--quiet"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if shown else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=VENV,
        env=pip_environment(),
        pass_fds=(held,),
    )
    if done.returncode:
        say("pip: " + last_error(done.stderr))
        fail("the packages could not be installed; %s" % advice(done.stderr))


def pip_environment():
    """Environment variables for pip, without settings that send packages to another place."""
    elsewhere = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PIP_CONSTRAINT")
    environment = clean_environment()
    kept = {name: value for name, value in environment.items() if name not in elsewhere}
    return dict(kept, PIP_USER="0")


def last_error(output):
    """What pip or venv called an error last, with the lines below it, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no reason given"]
    errors = [i for i, line in enumerate(lines) if re.match(r"(\w*Error|ERROR|error):", line)]
    return " ".join(lines[(errors or [-1])[-1] :][:5])


def advice(output):
    """What to do about a failed installation."""
    if re.search(r"No space left|Errno 28|Disk quota", output):
        return "make room on the disk, here and for temporary files, and run this again"
    if re.search(r"onnection broken|ConnectionError|timed out|NameResolution|ProxyError", output):
        return "see whether this machine reaches pip's package index, then run this again"
    return "all that pip said is in %s; run this again when that is mended" % LOG


def download_size(lock):
    """Size of the download for this machine, as the lock file's head states it."""
    with open(lock, encoding="utf-8") as file:
        head = file.read(1000)
    match = re.search(r"^# download:.*\b%s (\d+ MB)" % os.uname().machine, head, re.MULTILINE)
    return match.group(1) if match else "unknown size"


def supported_python():
    """An interpreter that TensorFlow has a wheel for: the running one, or one found on PATH."""
    reason = unsupported()
    found = find_supported() if reason else outside_venv()
    if not found:
        fail(
            "TensorFlow 2.21 has no wheel for %s; it needs CPython 3.10 to 3.13 on Linux with "
            "glibc, x86_64 or aarch64: install one, for example python3.12, so that it is found "
            "on PATH, and run this again" % reason
        )
    return found


def find_supported():
    """The newest interpreter on PATH that TensorFlow has a wheel for, or None."""
    import shutil

    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        python = shutil.which("python3.%d" % minor)
        # Asked, not believed: the name may be a shim with nothing behind it.
        if python and run(python, os.path.abspath(__file__)).returncode == 0:
            return python
    return None


def unsupported():
    """What about the running interpreter TensorFlow has no wheel for; None where it has one."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in MACHINES:
        return "%s on %s" % (sys.platform, machine)
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or not os.confstr("CS_GNU_LIBC_VERSION"):
        return "a Linux without glibc"
    free_threaded = "t" in getattr(sys, "abiflags", "")
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32 or free_threaded:
        return "this build of Python (%s %s)" % (sys.implementation.name, version_text())
    if not OLDEST <= tuple(sys.version_info[:2]) <= NEWEST:
        return "Python " + version_text()
    return None


def outside_venv():
    """The running interpreter, or the one that it came from if it lies in `.venv` itself."""
    inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)
    return getattr(sys, "_base_executable", sys.executable) if inside else sys.executable


def version_text():
    return "%d.%d.%d" % tuple(sys.version_info[:3])


def run(*command):
    """Runs a command that prints little, away from the caller's folder and its modules."""
    import subprocess

    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=VENV if os.path.isdir(VENV) else ROOT,
        env=clean_environment(),
    )


def say(message):
    print("Unfreeze: " + message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # How supported_python() asks another interpreter about itself.
    sys.exit(unsupported())
