"""Who may read the metrics, and what a request without the right credentials is told."""

import base64
from typing import Any, cast

import bcrypt
import pytest
import trio
from trio.testing import trio_test, wait_all_tasks_blocked

from exporter.web import passwords
from exporter.web.access import Access, Refusal
from exporter.web.passwords import CrowdedError, Passwords
from exporter.web.web_file import TokenBucket, Web
from shared.runtime.http.connection import CONNECTION, Connection
from shared.secret import BearerTokens

USERS = {"alice": bcrypt.hashpw(b"open: sesame", bcrypt.gensalt(4)).decode()}


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


async def refusal(
    access: Access, authorization: str = "", path: str = "/metrics", names: set[str] | None = None
) -> Refusal | None:
    """Send a request; with names, its connection has a client certificate."""
    connection = Connection(cast("Any", None), "192.0.2.1")
    if names is not None:
        connection.certificate, connection.names = "digest", frozenset(names)
    headers = [(b"authorization", authorization.encode())] if authorization else []
    scope = {"path": path, "headers": headers, "state": {CONNECTION: connection}}
    return await access.find_refusal(scope)


async def told(access: Access, authorization: str = "", names: set[str] | None = None) -> str:
    """Return why a request is refused; empty if it is not."""
    found = await refusal(access, authorization, names=names)
    return found.reason if found else ""


@trio_test
async def test_wrong_token_differs_from_a_missing_one() -> None:
    """The answer says whether a token was sent, and challenges as RFC 6750 wants it."""
    access = Access(BearerTokens(["right"]), Web)
    missing, wrong = await refusal(access), await refusal(access, "Bearer wrong")
    assert missing == Refusal(
        401,
        "no credentials were sent: a bearer token is needed",
        (("www-authenticate", "Bearer"),),
    )
    assert wrong == Refusal(
        401,
        "this bearer token is not valid",
        (("www-authenticate", 'Bearer error="invalid_token"'),),
    )
    assert await told(access, "bearer right") == ""
    assert not access.is_open


@trio_test
async def test_password_is_checked() -> None:
    """A right password is accepted at once the second time; colons belong to the password."""
    web = Web(passwords=Passwords(USERS))
    access = Access(None, lambda: web)
    for _ in range(2):
        assert await told(access, basic("alice", "open: sesame")) == ""
    for wrong in (
        basic("alice", "open"),
        basic("alice", "open: sesame\0"),
        basic("bob", "open: sesame"),
        basic("", ""),
        basic("alice", "x" * 100),
    ):
        assert await told(access, wrong) == "this user name or password is not valid"
    for unreadable in ("", "Basic", "Basic !", "Basic YWxpY2U=", "Basic /////w==", "Bearer x"):
        missing = await told(access, unreadable)
        assert missing == "no credentials were sent: a user name and password is needed"
    found = await refusal(access)
    assert found is not None
    assert dict(found.headers)["www-authenticate"].startswith('Basic realm="')


@trio_test
async def test_token_or_password_is_enough() -> None:
    """With both set, either is accepted, and both are offered."""
    web = Web(passwords=Passwords(USERS))
    access = Access(BearerTokens(["right"]), lambda: web)
    assert await told(access, "Bearer right") == ""
    assert await told(access, basic("alice", "open: sesame")) == ""
    found = await refusal(access)
    assert found is not None
    assert "a bearer token or a user name and password" in found.reason
    assert dict(found.headers)["www-authenticate"].startswith("Bearer, Basic ")


@trio_test
async def test_client_certificate_is_needed_beside_credentials() -> None:
    """A required certificate must have an allowed name, and does not replace a token."""
    web = Web(requires_client=True, client_names=frozenset({"prometheus.example", "fd00::1"}))
    access = Access(BearerTokens(["right"]), lambda: web)
    assert "client certificate" in await told(access, "Bearer right")
    assert "none of the names" in await told(access, "Bearer right", names={"other.example"})
    assert "bearer token" in await told(access, names={"prometheus.example"})
    assert await told(access, "Bearer right", names={"other", "prometheus.example"}) == ""
    assert await told(access, "Bearer right", names={"FD00:0:0:0:0:0:0:1"}) == ""


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
@trio_test
async def test_probes_need_nothing(path: str) -> None:
    """Probes are answered without credentials or certificate, and are not limited."""
    limit = TokenBucket(60, 1)
    web = Web(requires_client=True, passwords=Passwords(USERS), limit=limit)
    access = Access(BearerTokens(["right"]), lambda: web)
    for _ in range(3):
        assert await refusal(access, path=path) is None


@trio_test
async def test_requests_beyond_the_limit_get_429() -> None:
    """Requests beyond `rate_limit` are refused before their credentials are checked."""
    web = Web(limit=TokenBucket(60, 1))
    access = Access(None, lambda: web)
    assert await refusal(access) is None
    found = await refusal(access)
    assert found is not None
    assert (found.status, dict(found.headers)["retry-after"]) == (429, "60")


@trio_test
async def test_guesses_delay_nobody_with_the_right_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guesses are hashed one at a time in a worker thread; beyond a few that wait, 503."""
    monkeypatch.setattr(passwords, "_WAITING", 2)
    users = Passwords({"alice": bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()})
    web = Web(passwords=users)
    access = Access(None, lambda: web)
    assert await users.allow("alice", b"right")
    async with users._turns, trio.open_nursery() as nursery:  # one guess is being hashed
        for _ in range(2):
            nursery.start_soon(users.allow, "alice", b"guess")
        await wait_all_tasks_blocked()
        with pytest.raises(CrowdedError):
            await users.allow("alice", b"guess")
        found = await refusal(access, basic("alice", "guess"))
        assert found is not None
        assert (found.status, dict(found.headers)["retry-after"]) == (503, "1")
        assert await told(access, basic("alice", "right")) == ""
        nursery.cancel_scope.cancel()
