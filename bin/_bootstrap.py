"""Runs a program in an interpreter that has the packages of setup.cfg.

Each program in bin/ begins with `import _bootstrap` and `_bootstrap.ensure()`. Where the running
interpreter has what setup.cfg requires, that is all. Else the program starts again in `.venv`,
which `_venv` makes first if necessary. As there, no syntax that Python 3.6 can't read.
"""

import operator
import os
import re
import sys

from _venv import ROOT, VENV, clean_environment, fail, prepared_python

# Names the environment that a program was restarted in, so that it is never restarted twice.
RESTARTED = "UNFREEZE_RESTARTED_IN"

OPERATORS = {"==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le}
OPERATORS.update({"<": operator.lt, ">": operator.gt})
SPECIFIER = r"\s*(==|!=|>=|<=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?\s*"
REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)\s*((?:%s(?:,|$))*)$" % SPECIFIER)


def ensure(extras=()):
    """Returns only in an interpreter that has the packages of setup.cfg, where engine is imported.

    Args:
      extras: names of setup.cfg's extras that are required too, such as "test".
    """
    if ROOT not in sys.path:
        sys.path.insert(1, ROOT)
    from engine.core.streams import open_streams

    open_streams()
    missing = missing_requirements(extras)
    if missing:
        restart_in_venv(missing)
    os.environ.pop(RESTARTED, None)


def restart_in_venv(missing):
    """Starts the same program with the same arguments in `.venv`; does not return."""
    if os.environ.get(RESTARTED) == VENV:
        fail(
            "%s lacks %s; move that folder away and run this again (if that does not help, "
            "the lock file is older than setup.cfg: .ci/lock renews it)"
            % (VENV, ", ".join(missing))
        )
    python = prepared_python(missing)
    arguments = getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:]
    sys.stdout.flush()
    os.execve(python, [python, *arguments], dict(clean_environment(), **{RESTARTED: VENV}))


def requirements(extras=()):
    """The requirement lines of setup.cfg, those of `extras` included."""
    import configparser

    config = configparser.ConfigParser()
    config.read(os.path.join(ROOT, "setup.cfg"), encoding="utf-8")
    lists = [config.get("options", "install_requires")]
    lists += [config.get("options.extras_require", extra) for extra in extras]
    return [line.strip() for text in lists for line in text.splitlines() if line.strip()]


def missing_requirements(extras=()):
    """Those of setup.cfg's requirements that the running interpreter does not meet."""
    try:
        from importlib import metadata
    except ImportError:  # before 3.8; no TensorFlow that we could use exists for those
        return requirements(extras)
    return [line for line in requirements(extras) if not is_met(line, metadata)]


def is_met(requirement, metadata):
    """Whether a distribution is installed whose version fits the requirement line."""
    match = REQUIREMENT.match(requirement)
    if not match:
        raise ValueError(
            "setup.cfg: got the requirement %r; allowed: a name with ==, !=, >=, <=, < or > and "
            "numbers, such as numpy>=1.26,<3 or tensorflow==2.21.*" % requirement
        )
    try:
        version = metadata.version(match.group(1))
    except metadata.PackageNotFoundError:
        return False
    # A half-removed package has a folder, but no version in it.
    return version is not None and fits(version, match.group(2))


def fits(version, specifiers):
    """Whether e.g. "2.21.1" fits "==2.21.*,!=2.21.0".

    Release numbers alone are compared: "2.21.0rc1" counts as 2.21.0.
    """
    return all(
        OPERATORS[name](*padded(version, number, wildcard))
        for name, number, wildcard in re.findall(SPECIFIER, specifiers)
    )


def padded(version, number, wildcard):
    """Both release numbers, of equal length: zeros fill the shorter, a wildcard cuts the version.

    "4.9.10.post1" and "4.10" give [4, 9, 10] and [4, 10, 0].
    """
    have, want = (
        [int(part) for part in re.split(r"[^\d.]", text)[0].split(".") if part]
        for text in (version, number)
    )
    length = len(want) if wildcard else max(len(have), len(want))
    return [(release + [0] * length)[:length] for release in (have, want)]
