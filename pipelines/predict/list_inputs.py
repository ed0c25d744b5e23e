"""Lists the images named on a command line: files, folders and URLs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from engine.core.errors import UserError
from engine.core.text import printable
from pipelines.predict import fetch
from pipelines.sources.examples import PassedOver
from pipelines.sources.find_images import describe_passed_over, find_images


def list_inputs(
    words: Iterable[str], log: Callable[[str], None], allow_private: bool = True
) -> list[str]:
    """Returns files and URLs, with the sorted images below each folder in its place.

    An unreadable folder below is listed itself, and reported as unreadable later.

    Args:
      log: receives a line about what is passed over in the folders, if anything.

    Raises:
      UserError: a path that does not exist, a folder without images, or a URL that may not be
        fetched.
    """
    places: list[str] = []
    passed_over: list[PassedOver] = []
    for word in words:
        if fetch.is_url(word) and not allow_private:
            fetch.require_public_host(word)
        if fetch.is_url(word) or os.path.isfile(word):
            places.append(word)
        elif os.path.isdir(word):
            found = find_images(word)
            files = sorted([*found.files, *(error.filename for error in found.unreadable)])
            if not files:
                others = describe_passed_over(found.passed_over)
                raise UserError(
                    f"{printable(word)}: no images below it{others and f'; {others}'}; "
                    "give a folder of images, such as .jpg or .png"
                )
            places += files
            passed_over += found.passed_over
        else:
            raise UserError(
                f"{printable(word)}: no such file or folder; give files, folders or http(s)://…"
            )
    if passed_over:
        log(describe_passed_over(passed_over))
    return places
