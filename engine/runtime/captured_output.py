"""Captured output streams: what libraries and native code print is shown only after a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

STDOUT, STDERR = 1, 2


def capture_output() -> AbstractContextManager[None]:
    """Captures both standard streams; prints what they received only if the block fails."""
    streams = {STDOUT, STDERR}
    with suppress(OSError, ValueError, AttributeError):  # a notebook's stream has no descriptor
        streams.add(sys.stderr.fileno())
    return _capture(streams)


def capture_native_stderr() -> AbstractContextManager[None]:
    """Captures the error stream of native code; prints it only if the block fails."""
    return _capture({STDERR})


@contextmanager
def _capture(descriptors: Iterable[int]) -> Iterator[None]:
    """Redirects descriptors to a file in memory; a block that is interrupted has not failed."""
    _flush()
    originals = {descriptor: os.dup(descriptor) for descriptor in descriptors}
    with open(os.memfd_create("captured"), "w+b") as captured:
        for descriptor in originals:
            os.dup2(captured.fileno(), descriptor)
        try:
            yield
        except Exception:
            _flush()
            captured.seek(0)
            with suppress(OSError):  # nobody reads it
                os.write(originals[STDERR], captured.read())
            raise
        finally:
            _flush()
            for descriptor, original in originals.items():
                os.dup2(original, descriptor)
                os.close(original)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
