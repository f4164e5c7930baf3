"""The exceptions whose messages are written for the user."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user wrote or named is wrong; all errors that were found are listed, one per line.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, errors: str | Iterable[str]) -> None:
        self.errors: tuple[str, ...] = (errors,) if isinstance(errors, str) else tuple(errors)
        super().__init__("\n".join(self.errors))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[str, ...]]]:
        return type(self), (self.errors,)


class UnwritableError(InputError):
    """Something has to be kept in a folder that this user cannot write."""


class NonFiniteLossError(RuntimeError):
    """Training met a loss that is not a finite number."""
