"""A program's flags as they were read, and the error about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from absl import flags

from engine.core.errors import UserError

Options = TypeVar("Options")


class FlagError(UserError):
    """A flag that is not as it should be: the program ends with 2."""


@contextmanager
def as_flag_errors() -> Iterator[None]:
    """Turns each UserError of the block, about a value that came from a flag, into a FlagError."""
    try:
        yield
    except UserError as error:
        raise FlagError(str(error)) from None


class ParsedFlags:
    """A program's flags as attributes.

    explicit: names of the flags that the user gave, in order.
    arguments: the words that are no flags.
    other_data: whether the command line names other images than its flag files.
    """

    def __init__(
        self,
        values: flags.FlagValues,
        explicit: list[str],
        arguments: list[str],
        other_data: bool = False,
    ) -> None:
        self._values, self.explicit, self.arguments = values, explicit, arguments
        self.other_data = other_data

    def __getattr__(self, name: str) -> Any:
        return self._values[name].value

    def set_flags(self) -> list[str]:
        """The explicit flags without those that `--noname` or `--name=` leaves unset."""
        values = ((name, getattr(self, name)) for name in self.explicit)
        return [name for name, value in values if value is not None and value is not False]

    def require(self, **hints: str) -> None:
        """Raises:
        FlagError: one of these flags is missing; the message ends with its hint.
        """
        for name, hint in hints.items():
            if not getattr(self, name):
                raise FlagError(f"--{name} is missing; {hint}")

    def options(self, kind: type[Options], **values: Any) -> Options:
        """Makes a dataclass of options from `values` and else from the flags of its fields' names.

        Raises:
          FlagError: a value does not fit.
        """
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        names = {field.name for field in fields} & {*self._values} - {*values}
        with as_flag_errors():
            return kind(**{name: getattr(self, name) for name in names}, **values)

    def refuse(self, names: Container[str], why: str, unset: bool = False) -> None:
        """
        Args:
          unset: refuse `--noname` and `--name=`, too.

        Raises:
          FlagError: the user set one of these flags; the message says why it can't be.
        """
        for name in self.explicit if unset else self.set_flags():
            if name in names:
                raise FlagError(f"--{name} {why}")
