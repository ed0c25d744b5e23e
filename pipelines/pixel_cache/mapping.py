"""Memory that the system hands over ahead of its use."""

from __future__ import annotations

import threading

import numpy as np

_PIECE = 1 << 22  # bytes between two looks at whether to stop
_PAGE = 4096


class Mapping:
    """A new array, whose pages a thread asks for until somebody writes to it.

    The system gives a page when it is first written to, and clears it before; in a virtual machine
    that can take as long as decoding the image that goes there. A processor that has nothing to
    do meanwhile does it here.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        # NumPy asks for large pages here, and not for zeros: filled in a fraction of the time.
        self._array = np.empty(shape, np.uint8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="mapping", daemon=True)
        self._thread.start()

    def array(self) -> np.ndarray:
        """uint8 of that shape, of any values; from now on it is the caller's alone."""
        self._stop.set()
        self._thread.join()
        return self._array

    def _touch(self) -> None:
        flat = self._array.reshape(-1)
        for start in range(0, flat.size, _PIECE):
            if self._stop.is_set():
                return
            flat[start : start + _PIECE : _PAGE] = 0
