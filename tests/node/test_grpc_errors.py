"""Each error has one canonical code, and faults of the node are not described to clients."""

import grpc
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import Headers

from node import errors
from node.api.edge.asgi import CALLS
from node.api.grpc.application import build_services
from node.api.grpc.errors import as_connect_error, canonical, describe
from node.api.grpc.generated.distributed_llm.v1.inference_connect import Inference
from node.api.grpc.generated.grpc.health.v1.health_connect import Health


class _Inference(Inference):
    """A service whose calls always fail."""


class _Health(Health):
    """A service whose calls always fail."""


EXPECTED = [
    (errors.InvalidRequestError, "invalid_argument"),
    (errors.ContextLengthError, "invalid_argument"),
    (errors.UnauthorizedError, "unauthenticated"),
    (errors.ModelNotFoundError, "not_found"),
    (errors.QueueFullError, "resource_exhausted"),
    (errors.EngineFailedError, "internal"),
    (errors.UnavailableError, "unavailable"),
    (errors.InsufficientMemoryError, "unavailable"),
    (errors.DeadlineExceededError, "deadline_exceeded"),
]


@pytest.mark.parametrize(("kind", "code"), EXPECTED)
def test_request_error_has_its_code(kind: type[errors.RequestError], code: str) -> None:
    """Errors that a caller can act on have different codes, and keep their text."""
    error = as_connect_error(kind("why"))
    assert canonical(error) == code
    assert error.message == "why"


def test_names_are_grpcs_own() -> None:
    """The metric's codes are gRPC's names in lower case, which differ from the library's."""
    names = {canonical(ConnectError(code, "")) for code in Code} | {canonical(None)}
    assert names == {code.name.lower() for code in grpc.StatusCode}


def test_fault_of_the_node_is_told_to_its_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is INTERNAL without details; the log has them."""
    error = as_connect_error(ZeroDivisionError("of a secret kind"))
    assert canonical(error) == "internal"
    assert "secret" not in error.message
    assert "of a secret kind" in caplog.text


def test_trailers_say_what_a_program_may_act_on() -> None:
    """The trailers have OpenAI's error code and the time to retry."""
    trailers = Headers()
    describe(errors.QueueFullError("full", retry_after_seconds=2.5), trailers)
    assert trailers["error-code"] == "queue_full"
    assert trailers["retry-after"] == "3"
    trailers = Headers()
    describe(errors.InvalidRequestError("wrong"), trailers)
    assert not trailers


def test_every_service_is_known_to_who_asks_for_keys() -> None:
    """Every service is known to the authentication; others would be refused as HTTP."""
    services = build_services(_Inference(), _Health(), lambda _: None)
    assert {f"{service.path}/" for service in services} == set(CALLS)
