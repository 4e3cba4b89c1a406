"""Real gRPC clients for tests: grpcio with stubs generated from `shared/proto`."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc

PROTO: Final = Path(__file__).parents[1] / "shared/proto"

sys.path.append(str(PROTO))
pb: Any
services: Any
pb, services = grpc.protos_and_services("distributed_llm/v1/inference.proto")
sys.path.remove(str(PROTO))


class Client:
    """A channel to a node, with a stub for each service."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.inference: Any = services.InferenceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)


@contextlib.contextmanager
def connect(url: str) -> Iterator[Client]:
    """Connect over plain text to the node whose API has this URL."""
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        yield Client(channel)


def ask(**fields: Any) -> Any:
    """Return a request; by default it is greedy and short."""
    return pb.GenerateRequest(
        **{"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8} | fields
    )


def chat(*contents: str) -> Any:
    """Return a chat in which user and assistant alternate."""
    roles = ("user", "assistant")
    turns = [
        pb.ChatMessage(role=roles[number % 2], content=content)
        for number, content in enumerate(contents)
    ]
    return pb.Chat(messages=turns)
