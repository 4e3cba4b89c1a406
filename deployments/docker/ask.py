"""Asks a process how it is, for a container's HEALTHCHECK: exits 0 where the answer is 200.

A script of its own, because an image without a need for a shell has none for curl either.
"""

import http.client
import ssl
import sys
import urllib.request
from typing import Final

_SECONDS: Final = 2.0


def main() -> None:
    """Ask the URL given; one line says what is wrong, where something is."""
    (url,) = sys.argv[1:]
    if not url.startswith(("http://127.0.0.1:", "https://127.0.0.1:")):
        sys.exit(f"{url}: only this container is asked")
    # Of itself a container need not be sure: its certificate names it as others know it.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001
    # ... nor is there a proxy on the way.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        _open(opener, url)
    except OSError as error:
        sys.exit(f"{url}: {error}")


def _open(opener: urllib.request.OpenerDirector, url: str) -> None:
    """Request the URL, by HTTPS if the port does not speak plain HTTP."""
    try:
        opener.open(url, timeout=_SECONDS).close()
    except (http.client.BadStatusLine, ConnectionResetError):
        opener.open(url.replace("http:", "https:", 1), timeout=_SECONDS).close()


if __name__ == "__main__":
    main()
