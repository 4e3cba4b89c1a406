"""Carries surveys and answers over nng: one socket dials all peers, one listens.

nng's threads fill its queues. This module empties them when the socket's descriptor is readable,
many messages per wake-up, which costs less than a callback per message.
"""

import select
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pynng
import trio

from node.errors import StartupError
from node.mesh.guests import Guest, Guests
from node.mesh.messages import MESSAGE_BYTES

_RECONNECT_MILLISECONDS: Final = (20, 1000)
_SURVEY_MILLISECONDS: Final = 5000
"""Answers to a survey are accepted until the next survey, at most this long."""
_SEND_MILLISECONDS: Final = 20
"""An answer that cannot be sent at once is dropped: its receiver asks again."""
_QUEUE: Final = 512
_BURST: Final = 64
"""Messages to process before other tasks run."""
_NOTHING: Final = (pynng.TryAgain, pynng.BadState, pynng.Timeout)


@dataclass(frozen=True)
class Tls:
    """TLS files for both sides; every node's certificate carries the same name."""

    certificate: Path
    key: Path
    authority: Path
    name: str


@dataclass(frozen=True)
class Reply:
    """A node's reply to a survey, and its judgement of the sender."""

    sealed: bytes | None
    """None for no answer."""
    verdict: Literal["believed", "repeated", "refused"]


class Transport:
    """The node's two sockets; `open_transport` yields one.

    Args:
        surveyor: The socket that dials.
        respondent: The socket that listens already.
        scheme: `tcp` or `tls+tcp`.
        address: The IP address and port on which it listens.
        members: Limit of open connections from nodes of the mesh.
    """

    def __init__(
        self,
        surveyor: pynng.Surveyor0,
        respondent: pynng.Respondent0,
        scheme: str,
        address: str,
        members: int,
    ) -> None:
        self.address: Final = address
        self.on_connect: Callable[[str], None] = lambda _: None
        self.on_disconnect: Callable[[str], None] = lambda _: None
        """Called in the event loop with the address that was dialed."""
        self.contain: Callable[[], AbstractContextManager[object]] = nullcontext
        """Guards the callbacks of nng's threads: their errors would end the event loop."""
        self._excess = 0
        self._surveyor = surveyor
        self._respondent = respondent
        self._scheme = scheme
        self._dialers: dict[str, tuple[Any, float]] = {}
        """Each with the time at which dialing began."""
        self._pipes: dict[int, str] = {}
        self._answered_pipes: set[int] = set()
        """Connections over which the last survey was answered; a second answer would be excess."""
        self._guests: Guests[pynng.Pipe] = Guests(members)
        # nng looks the descriptor up on each access.
        self._answers_fd: int = surveyor.recv_fd
        self._surveys_fd: int = respondent.recv_fd
        self._answered = _poll(self._answers_fd)
        self._answerable = _poll(respondent.send_fd)
        self._trio_token = trio.lowlevel.current_trio_token()
        surveyor.add_post_pipe_connect_cb(self._note_connected)
        surveyor.add_post_pipe_remove_cb(self._note_removed)
        respondent.add_post_pipe_connect_cb(self._note_guest)
        respondent.add_post_pipe_remove_cb(self._note_guest_left)

    @property
    def dialed(self) -> set[str]:
        """The addresses that are dialed now, connected or not."""
        return set(self._dialers)

    @property
    def connections(self) -> int:
        """How many of them are connected."""
        return len(self._pipes)

    def take_excess(self) -> int:
        """Return how many messages and connections exceeded their limits since the last call."""
        excess, self._excess = self._excess, 0
        return excess

    def dial(self, address: str) -> None:
        """Connect to an address and reconnect until it is hung up.

        Raises:
            ValueError: nng cannot dial it.
        """
        try:
            url = f"{self._scheme}://{address}"
            dialer = self._surveyor.dial(url, block=False)
            self._dialers[address] = (dialer, trio.current_time())
        except pynng.NNGException as error:
            raise ValueError(f"{address} cannot be dialed: {error}") from error

    def hang_up(self, address: str) -> None:
        """Close the connection to an address and stop dialing it."""
        dialer, _ = self._dialers.pop(address)
        dialer.close()

    def seconds_dialed(self, address: str) -> float:
        """Return for how many seconds an address has been dialed."""
        _, since = self._dialers[address]
        return trio.current_time() - since

    def send_survey(self, sealed: bytes) -> int:
        """Send a survey to all connected peers and return their number. Ends the survey before."""
        self._answered_pipes.clear()
        self._surveyor.send(sealed)
        return len(self._pipes)

    async def receive_answers(self, take: Callable[[bytes, str], None]) -> None:
        """Pass on each answer with the address that was dialed for it. Runs until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._answers_fd)
            for _ in range(_BURST):
                if not self._answered.poll(0):  # even a non-blocking receive would wait here
                    break
                try:
                    message = self._surveyor.recv_msg(block=False)
                except _NOTHING:
                    break
                number = message.pipe.id if message.pipe else -1
                if number in self._answered_pipes:
                    self._excess += 1
                elif (address := self._pipes.get(number, "")) != "":
                    self._answered_pipes.add(number)
                    take(message.bytes, address)
            await trio.lowlevel.checkpoint()

    async def receive_surveys(self, answer: Callable[[bytes, str], Reply]) -> None:
        """Answer surveys; `answer` gets each one with its sender's host. Runs until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._surveys_fd)
            for _ in range(_BURST):
                try:
                    message = self._respondent.recv_msg(block=False)
                except _NOTHING:
                    break
                # pynng's `recv`, which returns bytes directly, fails on an empty message.
                if message.pipe is not None:
                    self._take_survey(message.pipe, message.bytes, answer)
            await trio.lowlevel.checkpoint()

    def _take_survey(
        self, pipe: pynng.Pipe, sealed: bytes, answer: Callable[[bytes, str], Reply]
    ) -> None:
        guest = self._admit(pipe)
        is_told_why = guest.was_refused
        reply = answer(sealed, guest.host)
        if reply.verdict == "believed":
            self._shut_out(self._guests.believe(pipe.id))
        is_refused = reply.verdict == "refused"
        if not guest.pay(trio.current_time(), is_refused=is_refused):
            self._shut_out(guest)
        elif reply.sealed is not None and not (is_refused and is_told_why):
            self._send_answer(reply.sealed)

    def _admit(self, pipe: pynng.Pipe) -> Guest[pynng.Pipe]:
        """Return the record of a connection, which may be new."""
        number = pipe.id
        guest = self._guests.find(number)
        if guest is None:
            guest = Guest(pipe, _host_of(pipe), trio.current_time())
            self._shut_out(self._guests.enter(number, guest))
        return guest

    def _shut_out(self, guest: Guest[pynng.Pipe] | None) -> None:
        if guest is not None:
            self._excess += 1
            with suppress(pynng.NNGException):  # it may be closed already
                guest.connection.close()

    def _send_answer(self, sealed: bytes) -> None:
        # If the receiver does not read, the descriptor is not ready. nng's non-blocking send always
        # fails here, and a blocking one does not have to wait then.
        if self._answerable.poll(0):
            with suppress(pynng.NNGException):
                self._respondent.send(sealed)

    # On nng's threads:

    def _note_connected(self, pipe: pynng.Pipe) -> None:
        with suppress(pynng.NNGException):  # it may be closed already
            address = str(pipe.remote_address)
            self._pipes[pipe.id] = address
            self._tell(lambda: self.on_connect(address))

    def _note_removed(self, pipe: pynng.Pipe) -> None:
        if (address := self._pipes.pop(pipe.id, "")) != "":
            self._tell(lambda: self.on_disconnect(address))

    def _note_guest(self, pipe: pynng.Pipe) -> None:
        self._tell(lambda: self._admit(pipe))

    def _note_guest_left(self, pipe: pynng.Pipe) -> None:
        number = pipe.id
        self._tell(lambda: self._guests.leave(number))

    def _tell(self, call: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._trio_token.run_sync_soon(self._run_contained, call)

    def _run_contained(self, call: Callable[[], object]) -> None:
        with self.contain():
            call()


@contextmanager
def open_transport(host: str, port: int, tls: Tls | None, members: int) -> Iterator[Transport]:
    """Listen for surveys and prepare to send them.

    Raises:
        StartupError: The port or a TLS file cannot be used.
    """
    scheme = "tls+tcp" if tls else "tcp"
    shown = f"[{host}]" if ":" in host else host
    with (
        pynng.Surveyor0(
            survey_time=_SURVEY_MILLISECONDS,
            reconnect_time_min=_RECONNECT_MILLISECONDS[0],
            reconnect_time_max=_RECONNECT_MILLISECONDS[1],
            recv_max_size=MESSAGE_BYTES,
            recv_buffer_size=_QUEUE,
            tls_config=_tls_config(tls, pynng.TLSConfig.MODE_CLIENT),
        ) as surveyor,
        pynng.Respondent0(
            recv_max_size=MESSAGE_BYTES,
            send_timeout=_SEND_MILLISECONDS,
            tls_config=_tls_config(tls, pynng.TLSConfig.MODE_SERVER),
        ) as respondent,
    ):
        try:
            listener = respondent.listen(f"{scheme}://{shown}:{port}")
        except pynng.NNGException as error:
            message = (
                f"the mesh cannot listen on port {port} of {host} ({error}): "
                "choose another with --mesh-port"
            )
            raise StartupError(message) from error
        yield Transport(surveyor, respondent, scheme, str(listener.local_address), members)


def _tls_config(tls: Tls | None, mode: int) -> Any:
    if tls is None:
        return None
    try:
        return pynng.TLSConfig(
            mode,
            server_name=tls.name if mode == pynng.TLSConfig.MODE_CLIENT else None,
            own_key_string=tls.key.read_text(),
            own_cert_string=tls.certificate.read_text(),
            ca_string=tls.authority.read_text(),
            auth_mode=pynng.TLSConfig.AUTH_MODE_REQUIRED,
        )
    except (OSError, UnicodeDecodeError, pynng.NNGException) as error:
        raise StartupError(f"the mesh's TLS files cannot be used: {error}") from error


def _host_of(pipe: pynng.Pipe) -> str:
    try:
        return str(pipe.remote_address).rpartition(":")[0].strip("[]")
    except pynng.NNGException:  # closed already
        return ""


def _poll(descriptor: int) -> select.poll:
    """Wait for one descriptor; `select.select` supports only the first 1024."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll
