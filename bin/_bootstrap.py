"""Sees to it that a program runs where the packages of setup.cfg are.

Each program in bin/ begins with

    import _bootstrap

    _bootstrap.ensure()

Where the running interpreter has what setup.cfg asks for, that is all. Where not, the program
starts anew in `.venv`, which `_venv` makes first if need be.

Only the standard library is used, and no syntax that Python 3.6 can't read: whoever has an old
interpreter is to meet one plain line, not a syntax error. This holds for the programs too.
"""

import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(ROOT, ".venv")

# Names the environment that a program was restarted in, so that it is never restarted twice.
RESTARTED = "UNFREEZE_RESTARTED_IN"

REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*((?:[=!<>~][^\[\];]*)?)$")
SPECIFIER = re.compile(r"\s*(==|!=|>=|<=|~=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?\s*$")


def ensure(extras=()):
    """Returns only in an interpreter that has the packages of setup.cfg.

    Afterwards `import engine` works, whatever folder the program was started from.

    Args:
      extras: names of setup.cfg's extras that are needed too, such as "test".
    """
    open_streams()
    if ROOT not in sys.path:
        sys.path.insert(1, ROOT)
    missing = missing_requirements(extras)
    if missing:
        restart_in_venv(missing)
    os.environ.pop(RESTARTED, None)


def open_streams():
    """Leads those of the three standard streams nowhere that are closed.

    Their numbers would go to the files that are opened next, and into those what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def restart_in_venv(missing):
    """Starts the same program with the same arguments in `.venv`; does not return."""
    if os.environ.get(RESTARTED) == VENV:
        fail(
            "%s lacks %s; move that folder away and run this again (if that does not help, "
            "the lock file is older than setup.cfg: .ci/lock renews it)"
            % (VENV, ", ".join(missing))
        )
    import _venv

    python = _venv.prepared_python(missing)
    environment = clean_environment()
    environment[RESTARTED] = VENV
    arguments = getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:]
    sys.stdout.flush()
    os.execve(python, [python, *arguments], environment)


def clean_environment():
    """The environment variables without those that lead an interpreter to other packages."""
    misleading = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in misleading}


def fail(message, status=1):
    """Ends the program with one line."""
    print("Unfreeze: " + message, file=sys.stderr)
    sys.exit(status)


def requirements(extras=()):
    """The requirement lines of setup.cfg, those of `extras` included."""
    import configparser

    config = configparser.ConfigParser()
    config.read(os.path.join(ROOT, "setup.cfg"), encoding="utf-8")
    text = config.get("options", "install_requires")
    for extra in extras:
        text += "\n" + config.get("options.extras_require", extra)
    return [line.strip() for line in text.splitlines() if line.strip()]


def missing_requirements(extras=()):
    """Those of setup.cfg's requirements that the running interpreter does not meet."""
    wanted = requirements(extras)
    try:
        from importlib import metadata
    except ImportError:  # before 3.8; no TensorFlow that we could use exists for those
        return wanted
    return [line for line in wanted if not is_met(line, metadata)]


def is_met(requirement, metadata):
    """Whether a distribution is installed whose version fits the requirement line."""
    match = REQUIREMENT.match(requirement)
    if not match:
        raise ValueError(
            "setup.cfg: got the requirement %r; a name with plain specifiers is allowed, "
            "such as numpy>=1.26,<3" % requirement
        )
    name, specifiers = match.groups()
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    # A half-removed package has a folder, but no version in it.
    return version is not None and fits(version, specifiers)


def fits(version, specifiers):
    """Whether e.g. "2.21.1" fits "==2.21.*,!=2.21.0".

    Release numbers alone are compared: "2.21.0rc1" counts as 2.21.0.
    """
    return all(fits_one(version, part) for part in specifiers.split(",") if part.strip())


def fits_one(version, specifier):
    match = SPECIFIER.match(specifier)
    if not match:
        raise ValueError(
            "setup.cfg: got the specifier %r; ==, !=, >=, <=, ~=, < or > and a number "
            "is allowed, such as ==2.21.*" % specifier
        )
    operator, number, wildcard = match.groups()
    have, want = numbers(version), numbers(number)
    if operator == "~=":
        return have >= want and have[: len(want) - 1] == want[:-1]
    length = len(want) if wildcard else max(len(have), len(want))
    have, want = padded(have, length), padded(want, length)
    return {
        "==": have == want,
        "!=": have != want,
        ">=": have >= want,
        "<=": have <= want,
        "<": have < want,
        ">": have > want,
    }[operator]


def numbers(version):
    """Release numbers of a version: "4.9.10.post1" gives [4, 9, 10]."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in release.group().split(".")] if release else []


def padded(release, length):
    """The first `length` release numbers, with zeros where there are fewer: 2.21 is 2.21.0."""
    return (release + [0] * length)[:length]
