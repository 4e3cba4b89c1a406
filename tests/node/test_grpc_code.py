"""The generated gRPC code matches the proto files."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from grpc_health.v1 import health_pb2
from grpc_tools import protoc

from node.api.grpc.generated.grpc.health.v1 import health_pb

ROOT: Final = Path(__file__).parents[2]
GENERATED: Final = ROOT / "node/api/grpc/generated"


def test_generated_code_is_current(tmp_path: Path) -> None:
    """The committed code is the output of `just proto`."""
    proto = ROOT / "shared/proto"
    files = [str(file.relative_to(proto)) for file in proto.rglob("*.proto")]
    programs = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            protoc.__name__,
            f"--plugin={programs / 'protoc-gen-py'}",
            f"--plugin={programs / 'protoc-gen-connectrpc'}",
            "--proto_path=.",
            f"--py_out={tmp_path}",
            f"--connectrpc_out={tmp_path}",
            *files,
        ],
        cwd=proto,
        check=True,
    )
    assert _contents(tmp_path) == _contents(GENERATED)


def _contents(directory: Path) -> dict[str, str]:
    return {str(file.relative_to(directory)): file.read_text() for file in directory.rglob("*.py")}


def test_health_messages_are_those_that_clients_know() -> None:
    """The health messages have the names and numbers of gRPC's own protocol."""
    theirs = health_pb2.DESCRIPTOR
    ours = health_pb.desc()
    assert ours.proto.package == theirs.package
    for message in ours.messages:
        known = theirs.message_types_by_name[message.name]
        numbers = {field.name: field.number for field in message.fields}
        assert numbers == {field.name: field.number for field in known.fields}
    (status,) = next(m for m in ours.messages if m.name == "HealthCheckResponse").nested_enums
    known_status = theirs.message_types_by_name["HealthCheckResponse"].enum_types_by_name
    assert {value.name: value.number for value in status.values} == {
        value.name: value.number for value in known_status["ServingStatus"].values
    }
    (service,) = ours.services
    for method in service.methods:
        known_method = theirs.services_by_name[service.name].methods_by_name[method.name]
        assert method.input.type_name == known_method.input_type.full_name
        assert method.output.type_name == known_method.output_type.full_name
