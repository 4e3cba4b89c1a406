"""Write the page of the dependencies' licences: `python -m deployments.release.licenses`."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from packaging.utils import canonicalize_name

from deployments.release.pins import pinned

ALLOWED: Final = frozenset(
    {
        "3-Clause BSD License",
        "Apache Software License",
        "Apache-2.0",
        "BSD License",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "MIT",
        "MIT License",
        "MIT-0",
        "MPL-2.0",  # as a library; its own files stay under it
        "Mozilla Public License 2.0 (MPL 2.0)",
        "PSF-2.0",
    }
)
"""What may be shipped with a product under the MIT licence, as packages declare it."""

_HEAD: Final = """# Licences

The licences that the dependencies declare, written by `just docs` from the pinned
[`requirements/`](../requirements) as installed on Linux. A test compares those of what is shipped
with the list in `deployments/release/licenses.py`.
"""


@functools.cache
def read_licenses() -> dict[str, str]:
    """Return the declared licence of each installed distribution, by its normalised name."""
    command = [sys.executable, "-m", "piplicenses", "--with-system", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {canonicalize_name(each["Name"]): each["License"] for each in json.loads(done.stdout)}


def refused(licenses: Mapping[str, str]) -> dict[str, str]:
    """Return the distributions with a licence that is not allowed, with that licence."""
    return {name: text for name, text in licenses.items() if not _is_allowed(text)}


def write_page() -> str:
    """Return the page."""
    licenses = read_licenses()
    shipped = pinned("runtime")
    tools = [name for name in pinned("dev") if name not in shipped]
    sections = (
        ("Shipped with node or exporter", shipped),
        ("Used only to develop and test", tools),
    )
    return "\n".join([_HEAD, *_sections(sections, licenses)])


def _sections(
    sections: tuple[tuple[str, list[str]], ...], licenses: Mapping[str, str]
) -> Iterator[str]:
    for title, names in sections:
        yield f"## {title}\n\n| library | licence |\n|---|---|"
        yield from (f"| {name} | {licenses[name]} |" for name in names if name in licenses)
        yield ""


def _is_allowed(text: str) -> bool:
    """Return whether all licences of a declaration are allowed, joined by `AND` or by `OR`."""
    return all(
        part in ALLOWED or set(re.split(r" AND | OR ", re.sub("[()]", "", part))) <= ALLOWED
        for part in text.split("; ")
    )


if __name__ == "__main__":
    sys.stdout.write(write_page())
