"""Guards for tests."""

from shared.runtime.guard import Guard


def strict_guard() -> Guard[str]:
    """Return a guard for tests in which no part fails."""

    def count(part: str) -> None:
        raise AssertionError(f"{part} failed unexpectedly")

    return Guard(count)
