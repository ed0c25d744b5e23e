"""Pictures named on a command line: files, folders and web addresses -> pixels, or a problem."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from engine.specs import UserError
from pipelines import decode, fetch
from pipelines.examples import read_bytes

NAMES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # what counts inside a folder


def find(words: Iterable[str]) -> list[str]:
    """The files and addresses that the words mean; a folder means the pictures below it, sorted.

    Raises:
      UserError: a path that does not exist, or a folder without pictures.
    """
    found: list[str] = []
    for word in words:
        if fetch.is_url(word) or os.path.isfile(word):
            found.append(word)
        elif os.path.isdir(word):
            found += _inside(word)
        else:
            raise UserError(f"{word}: no such file or folder; give files, folders or http(s)://…")
    return found


def _inside(folder: str) -> list[str]:
    files = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(NAMES) and not name.startswith(".")
    ]
    if not files:
        raise UserError(f"{folder}: no pictures below it; allowed: {', '.join(NAMES)}")
    return sorted(files)


def read(
    places: Iterable[str], image_size: tuple[int, int], resize: str, allow_private: bool = False
) -> Iterator[tuple[str, np.ndarray | None, str | None]]:
    """(place, uint8 [H, W, 3], None), or (place, None, problem), for each place in turn.

    allow_private: see `fetch.fetch`.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def pixels(contents: tf.Tensor) -> tf.Tensor:
        return decode.decode(contents, *image_size, resize)

    for place in places:
        try:
            yield place, pixels(_bytes(place, allow_private)).numpy(), None
        except OSError as error:
            yield place, None, f"can't be read: {error.strerror or error}"
        except UserError as error:
            yield place, None, str(error).removeprefix(f"{place}: ")
        except tf.errors.OpError as error:
            yield place, None, decode.reason(error)


def _bytes(place: str, allow_private: bool) -> bytes:
    if fetch.is_url(place):
        return fetch.fetch(place, allow_private=allow_private)
    return read_bytes(place)
