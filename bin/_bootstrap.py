"""Runs a program in an interpreter that has the packages of setup.cfg.

Where the running interpreter has what setup.cfg requires, a program continues. Else it starts again
in `.venv`, which `_venv` makes first if necessary. As there, no syntax that Python 3.6 can't read.
"""

import os
import re
import sys

from _venv import ROOT, VENV, clean_environment, fail, prepared_python

# Names the environment that a program was restarted in, so that it is never restarted twice.
RESTARTED = "UNFREEZE_RESTARTED_IN"

NUMBER = r"(\d+(?:\.\d+)*)"
REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)(?:>=%s|==%s\.\*)?$" % (NUMBER, NUMBER))


def run(command, extras=()):
    """Runs a command of engine.cli where the packages of setup.cfg and of these extras are."""
    ensure(extras)
    import importlib

    from engine.cli import main

    main.main(importlib.import_module("engine.cli." + command).main)


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
    try:
        os.execve(python, [python, *arguments], dict(clean_environment(), **{RESTARTED: VENV}))
    except OSError as error:
        fail(
            "%s cannot be started (%s); move %s away and run this again"
            % (python, error.strerror, VENV)
        )


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
    """Whether a distribution is installed whose version fits the requirement line.

    Release numbers alone are compared: "2.21.0rc1" counts as 2.21.0.
    """
    match = REQUIREMENT.match(requirement)
    if not match:
        raise ValueError(
            "setup.cfg: got the requirement %r; allowed: a name, alone or with a lowest version or "
            "a series, such as numpy>=1.26 or tensorflow==2.21.*" % requirement
        )
    name, lowest, series = match.groups()
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    if version is None:  # a half-removed package has a folder, but no version in it
        return False
    if series:
        return release(version)[: len(release(series))] == release(series)
    return not lowest or release(version) >= release(lowest)


def release(version):
    """The numbers of a release, so that they compare: [4, 9, 10, 0] for "4.9.10.post1"."""
    numbers = [int(part) for part in re.split(r"[^\d.]", version)[0].split(".") if part]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
