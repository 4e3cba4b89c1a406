"""Takes errors out of the groups that nurseries wrap them in."""

from typing import TypeVar

ErrorT = TypeVar("ErrorT", bound=BaseException)


def leaves(group: BaseExceptionGroup[ErrorT]) -> list[ErrorT]:
    """Return the errors in a group, however deep, in their order; at least one."""
    found: list[ErrorT] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
