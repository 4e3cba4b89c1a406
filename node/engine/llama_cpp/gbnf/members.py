"""Grammars of what is between the brackets of an array or an object."""

from collections.abc import Sequence
from typing import Any, Final

from node.engine.llama_cpp.gbnf.rules import SEPARATOR, SPACE, Rules, either, literal, repeated

_PLAIN: Final = r"\"\\\x00-\x1F"
"""What a name without escapes does not contain, as in a class."""
_COMPARED: Final = 16
"""Characters by which a name is told from others; a longer one that begins alike is not written."""


def join_members(
    rules: Rules,
    required: Sequence[str],
    optional: Sequence[str] = (),
    more: str = "",
    counts: tuple[int, int | None] = (0, None),
    place: str = "",
) -> str:
    """Return what matches members with commas between them, and a blank after the last one.

    Args:
        rules: Receives the parts of it.
        required: The first members.
        optional: The next members, in their order; each may be absent.
        more: The last member, which may come several times; empty for none.
        counts: How often that is at least, and at most.
        place: Where the schema says so.

    Raises:
        RefusedError: That is too often.
    """
    least, most = counts if more else (0, 0)
    tail = repeated(f"({SEPARATOR} {more})", least, most, place)
    if required:
        rest = [f"({SEPARATOR} {member})?" for member in optional]
        return " ".join([f" {SEPARATOR} ".join(required), *rest, tail, SPACE])
    begun = []
    if most != 0:
        fewer = None if most is None else most - 1
        begun = [f"{more} {repeated(f'({SEPARATOR} {more})', max(0, least - 1), fewer, place)}"]
    for member in reversed(optional):
        begun.append(f"{member} {tail}")
        tail = rules.add(f"({SEPARATOR} {member})? {tail}")
    members = f"({either(reversed(begun))}) {SPACE}"
    if not begun:
        return ""
    return members if least else f"({members})?"


def other_name(rules: Rules, names: Sequence[str]) -> str:
    """Return what matches the name of a property, in quotes, that is none of some names."""
    tree: dict[str, Any] = {}
    for name in names:
        branch = tree
        for character in name[:_COMPARED]:
            branch = branch.setdefault(character, {})
        branch[""] = {}
    return rf'"\"" {_unlike(rules, tree, 0)} "\""'


def _unlike(rules: Rules, tree: dict[str, Any], depth: int) -> str:
    """Return what matches the ends of names that are not in a tree of ends."""
    followed = {character: branch for character, branch in tree.items() if character}
    if depth == _COMPARED:
        followed = {}
    others = "".join(f"\\U{ord(character):08X}" for character in followed)
    choices = [] if depth == _COMPARED else [f"[^{_PLAIN}{others}] [^{_PLAIN}]*"]
    choices += [
        f"{literal(character)} {_unlike(rules, branch, depth + 1)}"
        for character, branch in followed.items()
        if character not in '"\\' and character >= " "
    ]
    if "" not in tree:
        choices.append('""')
    return rules.add(either(choices))
