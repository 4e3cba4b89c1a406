"""Unwraps errors from the exception groups that nurseries raise."""

from typing import TypeVar

ErrorT = TypeVar("ErrorT", bound=BaseException)


def leaves(group: BaseExceptionGroup[ErrorT]) -> list[ErrorT]:
    """Return all errors in a group, at any depth, in order; at least one."""
    found: list[ErrorT] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
