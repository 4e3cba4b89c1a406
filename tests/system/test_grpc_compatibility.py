"""Clients of the first released protocol keep working: fields are only added."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

from tests.grpc_client import PROTO
from tests.processes import Running

RELEASED: Final = Path(__file__).parent / "released"
"""The protocol as it was before its first additions. Never edit it."""
FILE: Final = "distributed_llm/v1/inference.proto"
SERVICE: Final = "distributed_llm.v1.Inference"


def described(directory: Path, target: Path) -> descriptor_pb2.FileDescriptorProto:
    """Return the description of the protocol in a directory."""
    subprocess.run(
        [sys.executable, "-m", protoc.__name__, "-I.", f"--descriptor_set_out={target}", FILE],
        cwd=directory,
        check=True,
    )
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
    return file


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorProto:
    """The released protocol."""
    return described(RELEASED, tmp_path_factory.mktemp("released") / "set")


def fields(message: descriptor_pb2.DescriptorProto) -> dict[str, tuple[Any, ...]]:
    """Return what the wire and old clients depend on, by field."""
    oneofs = [oneof.name for oneof in message.oneof_decl]
    return {
        field.name: (
            *(field.number, field.type, field.type_name, field.label, field.proto3_optional),
            oneofs[field.oneof_index] if field.HasField("oneof_index") else None,
        )
        for field in message.field
    }


def test_nothing_released_is_changed(
    released: descriptor_pb2.FileDescriptorProto, tmp_path: Path
) -> None:
    """Each released field, value and method still has its number and its type."""
    current = described(PROTO, tmp_path / "set")
    messages = {message.name: fields(message) for message in current.message_type}
    assert len(released.message_type) > 10
    for message in released.message_type:
        assert fields(message).items() <= messages[message.name].items(), message.name
    values = {enum.name: {v.name: v.number for v in enum.value} for enum in current.enum_type}
    for enum in released.enum_type:
        assert {v.name: v.number for v in enum.value}.items() <= values[enum.name].items()
    (now,), (before,) = current.service, released.service
    methods = {method.name: method for method in now.method}
    assert all(methods[method.name] == method for method in before.method)


@pytest.fixture(scope="module")
def old(released: descriptor_pb2.FileDescriptorProto) -> dict[str, Any]:
    """The messages of a client that knows only the released protocol."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(released)
    file = pool.FindFileByName(FILE)
    return {
        name: message_factory.GetMessageClass(message)
        for name, message in file.message_types_by_name.items()
    }


def test_old_client_is_answered_as_before(shared_node: Running, old: dict[str, Any]) -> None:
    """A client of the released protocol reads whole and streamed answers, and their endings."""
    request = old["GenerateRequest"](max_tokens=8, temperature=0)
    request.chat.messages.add(role="user", content="Tell me a story.")
    with grpc.insecure_channel(shared_node.url.removeprefix("http://")) as channel:
        serialize = old["GenerateRequest"].SerializeToString
        read = old["GenerateResponse"].FromString
        whole = channel.unary_unary(f"/{SERVICE}/Generate", serialize, read)(request)
        read = old["GenerateStreamResponse"].FromString
        *pieces, last = channel.unary_stream(f"/{SERVICE}/GenerateStream", serialize, read)(request)
    assert whole.text
    assert "".join(piece.text for piece in pieces) == whole.text
    assert {piece.WhichOneof("part") for piece in pieces} == {"text"}
    assert last.ending.finish_reason == whole.ending.finish_reason == 2
    assert last.ending.usage.generated_tokens == 8
