"""The standard streams of a program. As bin/_bootstrap.py, no syntax that Python 3.6 can't read."""

import io
import os
import select
import sys


class Output(io.FileIO):
    """Writes to a descriptor of the process, and drops what can't be written.

    A full disk, or a reader that has gone away, ends no program.

    error: the last OSError, or None.
    """

    error = None

    def __init__(self, descriptor):
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data):
        rest = memoryview(data)
        try:
            while rest:
                count = super().write(rest)
                if count is None:
                    select.select((), (self,), ())  # a pipe that is full, and set not to block
                else:
                    rest = rest[count:]
        except OSError as error:
            self.error = error
        return len(data)


def open_output(stream, descriptor=None):
    """Opens `Output` as text like that of a stream, where letters unknown to it are escaped.

    Args:
      descriptor: the stream's own by default. A stream that has none is returned as it is.
    """
    try:
        output = Output(stream.fileno() if descriptor is None else descriptor)
    except (AttributeError, OSError):
        return stream
    stream.flush()
    # Unbuffered: what a signal interrupts would be written twice.
    return io.TextIOWrapper(
        output,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
    )


def lost_output(stream):
    """Flushes a stream; returns the OSError of what it dropped, or None."""
    stream.flush()
    return getattr(getattr(stream, "buffer", None), "error", None)


def open_streams():
    """Makes the standard streams such that none of them ends a program.

    Those that are closed are opened on nothing: their numbers would go to the files that are opened
    next, and into those what is printed. The others drop what can't be written.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
        if number:
            setattr(sys, name, open_output(getattr(sys, name)))
