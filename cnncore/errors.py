"""The library's own exceptions. Everything else is a ValueError, TypeError or RuntimeError."""

from __future__ import annotations


class DivergenceError(ArithmeticError):
    """A training step gave a loss or a gradient that is not finite. The step changed nothing.

    `iteration` is the number of the step, from 1."""

    def __init__(self, message: str, iteration: int) -> None:
        super().__init__(message, iteration)
        self.message = message
        self.iteration = iteration

    def __str__(self) -> str:
        return self.message


class NotFittedError(ValueError):
    """Preprocessing is used before it was fitted to training data."""


class DataFormatError(ValueError):
    """A data file is damaged, incomplete or of a form that is not supported."""
