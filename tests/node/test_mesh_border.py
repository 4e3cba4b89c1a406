"""Everything from outside the mesh is limited and checked at the border."""

import ipaddress
import socket
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import trio_test

from node.mesh import seeds
from node.mesh.address_book import CANDIDATES, AddressBook
from node.mesh.addresses import address_of, is_address, is_loopback
from node.mesh.guests import STRANGERS, Guest, Guests
from node.mesh.identity import Identity
from node.mesh.peer_table import PeerTable
from node.mesh.reports import Reporter


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:70000",
        "10.0.0.1:-1",
        "10.0.0.1:+80",
        "10.0.0.1: 80",
        "10.0.0.1:0080",
        "10.0.0.1:\u0668\u0660",
        "10.0.0.01:80",
        "10.0.0.1\0:80",
        "[fe80::1%eth0]:80",
        "fe80::1%1:80",
        "fd00::7:80",
        "[FD00::7]:80",
        "[fd00:0::7]:80",
        "[fd00::7:80",
        "name.test:80",
        "[10.0.0.1]:80",
        "1" * 64,
    ],
)
def test_odd_address_is_not_one(text: str) -> None:
    """An address in another form, or that a socket does not accept, is refused."""
    assert not is_address(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_address_has_its_form(ip: Any, port: int) -> None:
    """Every address that a node writes can be read."""
    written = address_of(str(ip), port)
    if ip.version == 6 and ip.scope_id:
        return
    assert is_address(written)
    assert is_loopback(written) == ipaddress.ip_address(str(ip)).is_loopback


@given(st.text(max_size=70) | st.text(alphabet="0123456789abcdef:.[]%", max_size=64))
def test_no_address_is_an_error(text: str) -> None:
    """Any text is read as an address or ignored."""
    book = AddressBook(["10.0.0.9:1"])
    book.hint([text], 0.0)
    book.resolved("seed", [text])
    assert book.wanted([]) == ({text} if is_address(text) else set())


def test_addresses_on_others_word_are_bounded() -> None:
    """A peer that names ever new addresses has only a limited number of them dialed."""
    book = AddressBook([])
    for number in range(10_000):
        book.hint([f"10.0.{number // 250}.{number % 250 + 1}:7946"], number / 1000)
    assert len(book.wanted([])) == CANDIDATES
    book.expire(100.0)
    assert book.wanted([]) == set()


class _Resolver(trio.abc.HostnameResolver):
    """Resolves every name to the addresses of the test."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:
        del host, rest
        await trio.lowlevel.checkpoint()
        kind, tcp = socket.SOCK_STREAM, socket.IPPROTO_TCP
        return [(socket.AF_INET6, kind, tcp, "", (each, port, 0, 0)) for each in self._hosts]

    async def getnameinfo(self, *arguments: Any) -> Any:
        raise NotImplementedError


@trio_test
async def test_address_of_the_link_does_not_hide_the_others() -> None:
    """An address with a scope is skipped, and the name's other addresses are dialed."""
    trio.socket.set_custom_hostname_resolver(_Resolver("fe80::1%eth0", "fd00::7"))
    assert await seeds.resolve("node.test", 7946) == ["[fd00::7]:7946"]


@trio_test
async def test_slow_seed_does_not_delay_the_others(autojump_clock: trio.testing.MockClock) -> None:
    """Each seed is looked up separately; one that hangs is counted every few seconds."""
    found, failed = list[str](), list[float]()

    async def look_up(host: str, port: int) -> list[str]:
        if host == "slow":
            await trio.sleep_forever()
        return [f"10.0.0.1:{port}"]

    with trio.move_on_after(21):
        async with trio.open_nursery() as nursery:
            for seed in ("slow:1", "quick:2"):
                nursery.start_soon(
                    seeds.watch_seed,
                    seed,
                    look_up,
                    lambda _, addresses: found.extend(addresses),
                    lambda: failed.append(trio.current_time()),
                )
    assert found == ["10.0.0.1:2"] * 5
    assert len(failed) == 2
    del autojump_clock


@trio_test
async def test_other_secret_is_logged_once_for_each_sender(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stranger with many addresses causes one log line, not one for each address."""
    table = PeerTable(Identity("n0", 1, 1, "1"), [], 8)
    reporter = Reporter(table, lambda _: None)
    for number in range(1000):
        reporter.other_secret(f"fd00::{number:x}")
    reporter.other_secret("10.0.0.1")
    reporter.other_secret("10.0.0.2")
    reporter.other_secret("10.0.0.2:7946")
    hosts = [record.getMessage().split()[2] for record in caplog.records]
    assert hosts == ["fd00::0", "10.0.0.1", "10.0.0.2", "10.0.0.2:7946"]
    await trio.lowlevel.checkpoint()


def guest(name: str) -> Guest[str]:
    return Guest(name, "10.0.0.1", 0.0)


def test_oldest_stranger_makes_room() -> None:
    """A silent stranger is closed for a new connection; a member never is."""
    guests = Guests[str](members=2)
    member = guest("member")
    assert guests.enter(0, member) is None
    assert guests.believe(0) is None
    for number in range(1, STRANGERS + 1):
        assert guests.enter(number, guest(str(number))) is None
    closed = guests.enter(1000, guest("next"))
    assert closed is not None
    assert closed.connection == "1"
    assert guests.find(0) is member
    assert guests.find(1) is None


def test_member_that_was_silent_for_longest_makes_room() -> None:
    """Above the limit the member is closed that has been silent for longest."""
    guests = Guests[str](members=2)
    for number in range(3):
        guests.enter(number, guest(str(number)))
    assert guests.believe(0) is None
    assert guests.believe(1) is None
    assert guests.believe(0) is None
    closed = guests.believe(2)
    assert closed is not None
    assert closed.connection == "1"
    guests.leave(0)
    assert guests.find(0) is None
    assert guests.believe(77) is None  # closed in the meantime


@pytest.mark.parametrize(("is_refused", "allowed"), [(False, 256), (True, 32)])
def test_connection_pays_for_its_messages(is_refused: bool, allowed: int) -> None:  # noqa: FBT001
    """Messages of a connection are limited in rate; a refused one costs as much as eight."""
    visitor = guest("visitor")
    paid = [visitor.pay(0.0, is_refused=is_refused) for _ in range(allowed + 1)]
    assert paid == [True] * allowed + [False]


def test_peer_and_node_with_another_secret_keep_their_connections() -> None:
    """Five surveys a second, or one refused message, are within the limit of an honest node."""
    peer, stranger = guest("peer"), guest("stranger")
    for tick in range(10_000):
        assert peer.pay(tick / 5, is_refused=False)
        assert stranger.pay(float(tick), is_refused=True)
