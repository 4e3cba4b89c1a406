"""Decide who may read the metrics: by client certificate, and by bearer token or password."""

import base64
import binascii
import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from exporter.web.page import PAGE
from exporter.web.passwords import CrowdedError, Passwords
from exporter.web.web_config import normalize_name
from exporter.web.web_file import Web
from shared.runtime.http.connection import CONNECTION
from shared.secret import BearerTokens, bearer_token

Scope = MutableMapping[str, Any]

PROBES: Final = frozenset({"/livez", "/readyz"})
OPEN_PATHS: Final = PROBES | frozenset(PAGE)
"""These need no credentials. Not every probe can send them; if they are needed elsewhere, `/readyz`
reports only yes or no. The page's files hold no secrets: the page asks for the token."""
_BASIC: Final = "basic "
_BEARER_CHALLENGE: Final = "Bearer"
_BASIC_CHALLENGE: Final = 'Basic realm="distributed-llm", charset="UTF-8"'


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


class Access:
    """The rules of the exporter's port.

    A request needs the client certificate, if one is required, and a bearer token or a password, if
    either is set.

    Args:
        tokens: The bearer tokens; None for none.
        web: Returns what the web configuration file sets up now.
    """

    def __init__(self, tokens: BearerTokens | None, web: Callable[[], Web]) -> None:
        self._tokens = tokens
        self._web = web

    @property
    def is_open(self) -> bool:
        """Whether everyone may read everything."""
        web = self._web()
        return self._tokens is None and web.passwords is None and not web.requires_client

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The configured headers of each response."""
        return self._web().headers

    async def find_refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request must not be answered; None if it may be."""
        if scope["path"] in OPEN_PATHS:
            return None
        web = self._web()
        if web.limit is not None and not web.limit.take():
            seconds = math.ceil(web.limit.interval_seconds)
            return Refusal(
                429, "too many requests: see rate_limit", (("retry-after", str(seconds)),)
            )
        if web.requires_client and (refusal := _find_certificate_fault(scope, web)):
            return refusal
        if self._tokens is None and web.passwords is None:
            return None
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        try:
            return await self._find_credential_fault(given, web.passwords)
        except CrowdedError:
            reason = "too many passwords are being checked: try again"
            return Refusal(503, reason, (("retry-after", "1"),))

    async def _find_credential_fault(
        self, authorization: str, passwords: Passwords | None
    ) -> Refusal | None:
        if self._tokens is not None and self._tokens.allow(authorization):
            return None
        credentials = _read_basic(authorization)
        if passwords is not None and credentials and await passwords.allow(*credentials):
            return None
        is_bearer = bool(bearer_token(authorization))
        if self._tokens is not None and is_bearer:
            return self._challenge("this bearer token is not valid", error=' error="invalid_token"')
        if passwords is not None and credentials:
            return self._challenge("this user name or password is not valid")
        accepted = [
            *(["a bearer token"] if self._tokens is not None else []),
            *(["a user name and password"] if passwords is not None else []),
        ]
        return self._challenge(f"no credentials were sent: {' or '.join(accepted)} is needed")

    def _challenge(self, reason: str, error: str = "") -> Refusal:
        accepted = [
            *([_BEARER_CHALLENGE + error] if self._tokens is not None else []),
            *([_BASIC_CHALLENGE] if self._web().passwords is not None else []),
        ]
        return Refusal(401, reason, (("www-authenticate", ", ".join(accepted)),))


def _find_certificate_fault(scope: Scope, web: Web) -> Refusal | None:
    connection = scope.get("state", {}).get(CONNECTION)
    if connection is None or not connection.certificate:
        return Refusal(401, "a client certificate is needed")
    if web.client_names and web.client_names.isdisjoint(map(normalize_name, connection.names)):
        return Refusal(403, "the client certificate has none of the names in client_allowed_sans")
    return None


def _read_basic(authorization: str) -> tuple[str, bytes] | None:
    """Return the user and the password in the header's value (RFC 7617); None without them."""
    if authorization[: len(_BASIC)].lower() != _BASIC:
        return None
    try:
        user, colon, password = base64.b64decode(authorization[len(_BASIC) :].strip()).partition(
            b":"
        )
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None
