"""The standard streams of a program. As bin/_bootstrap.py, no syntax that Python 3.6 can't read."""

import os
import sys


def open_streams() -> None:
    """Opens those of the three standard streams on nothing that are closed.

    Their numbers would go to the files that are opened next, and into those what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
