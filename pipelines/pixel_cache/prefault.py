"""Memory whose pages the system hands over ahead of their use."""

from __future__ import annotations

import threading

import numpy as np

_CHUNK_BYTES = 1 << 22  # between two checks whether to stop
_PAGE_BYTES = 4096


class PrefaultedArray:
    """A new array, whose pages a thread touches until somebody writes to it.

    The system clears a page when it is first written to; in a virtual machine that can take as long
    as decoding the image that goes there (1 s for the first pass over cats and dogs). A processor
    that would be idle while the decoding program is built does it here.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        # NumPy requests large pages for `empty`, not for `zeros`: filled in a fraction of the time.
        self._array = np.empty(shape, np.uint8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="prefault", daemon=True)
        self._thread.start()

    def take(self) -> np.ndarray:
        """Returns the array, uint8 of any values, and touches it no more."""
        self._stop.set()
        self._thread.join()
        return self._array

    def _touch(self) -> None:
        flat = self._array.reshape(-1)
        for start in range(0, flat.size, _CHUNK_BYTES):
            if self._stop.is_set():
                return
            flat[start : start + _CHUNK_BYTES : _PAGE_BYTES] = 0
