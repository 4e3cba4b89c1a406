"""Imports point in one direction, and few modules import each foreign library."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
OWN: Final = ("shared", "node", "exporter")
EXCEPTED: Final = (Path("node/api/grpc/generated"),)
"""Generated code is exempt."""

FORBIDDEN: Final = {
    "shared": {"node", "exporter"},
    "node": {"exporter", "prometheus_client"},
    "exporter": {"node"},
}
FOREIGN_IN_SHARED: Final = {"click", "msgspec"}
RUNTIME: Final = "shared/runtime/"
"""The upper floor of `shared`, which uses Trio."""
INPUT_OUTPUT: Final = {"asyncio", "http", "selectors", "socketserver", "ssl", "urllib"}
"""Modules of the standard library that the lower floor of `shared` must not import (`socket` is
allowed: it provides the host name)."""
ROOMS: Final[dict[str, set[str]]] = {
    "agent": set(),
    "api": {"api.anthropic", "api.parts", "api.responses", "requests"},
    "api.anthropic": {"api", "api.parts", "requests"},
    "api.edge": {"api", "api.pages", "pipeline", "routing"},
    "api.grpc": {"api", "api.edge", "api.parts", "requests", "routing", "serving", "telemetry"},
    "api.http": {
        *("api", "api.anthropic", "api.edge", "api.pages", "api.parts", "api.responses"),
        *("mesh", "pipeline", "requests", "routing", "serving", "telemetry"),
    },
    "api.pages": set(),
    "api.parts": {"requests"},
    "api.responses": {"api", "api.parts", "requests"},
    "demo": set(),
    "engine": {"requests", "telemetry"},
    "mesh": set(),
    "pipeline": {"engine", "mesh", "requests", "routing", "serving", "telemetry"},
    "requests": set(),
    "routing": {"engine", "mesh", "requests", "serving", "telemetry"},
    "serving": {"engine", "requests"},
    "telemetry": {"engine", "serving"},
}
"""The rooms of the node and the rooms that each may import. Every room may import the modules
beside the rooms, except those that compose the node."""
COMPOSITION: Final = {"__main__", "main", "memory", "models", "parts"}
INFERENCE: Final = re.compile(r"\b(model|layer|token|prompt|slot|inference)s?\b", re.IGNORECASE)
RPC_MODULES: Final = ("application", "errors", "health", "interceptors")
ONLY_IN: Final = {
    "opentelemetry": {"exporter/traces/otlp.py"},
    "prometheus_client": {
        "exporter/web/collectors.py",
        "exporter/web/exposition.py",
        "exporter/web/registry.py",
    },
    "pynng": {
        "node/telemetry/carrier.py",
        "node/mesh/transport.py",
        "exporter/ingest/socket.py",
        "exporter/ingest/feed.py",
        "exporter/tools/tail.py",
        "exporter/tools/replay.py",
    },
    "ctransformers": {"node/engine/ctransformers/binding.py"},
    "rich": {"exporter/tools/top_screen.py"},
    "bcrypt": {"exporter/web/passwords.py"},
    "yaml": {"exporter/web/web_config.py"},
    "psutil": {"node/telemetry/system.py", "node/machine.py"},
    "hypercorn": {
        "shared/runtime/http/connection.py",
        "shared/runtime/http/server.py",
    },
    "h11": {"node/pipeline/dial.py", "shared/runtime/http/status_line.py"},
    "xllamacpp": {"node/engine/llama_cpp/server.py"},
    "h2": {"shared/runtime/http/connection.py"},
    "jinja2": {"node/engine/chat.py"},
    "httpx2": {
        "node/engine/upstream/client.py",
        "node/routing/client.py",
        "node/serving/downloads/fetch.py",
    },
    "huggingface_hub": {"node/serving/downloads/fetch.py"},
    "connectrpc": {f"node/api/grpc/{name}.py" for name in RPC_MODULES},
    "connectrpc_grpcreflect": {"node/api/grpc/application.py"},
    "protobuf": {f"node/api/grpc/{name}.py" for name in ("documents", "messages")},
}


def modules(package: str) -> Iterator[str]:
    for file in sorted((ROOT / package).rglob("*.py")):
        path = file.relative_to(ROOT)
        if not set(EXCEPTED) & set(path.parents):
            yield path.as_posix()


@functools.cache
def imported(module: str) -> set[str]:
    """Return the top-level packages that a module imports, at any place in it."""
    found: set[str] = set()
    for part in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(part, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            assert not part.level, f"{module} imports relatively"
            found.add(str(part.module).partition(".")[0])
        elif isinstance(part, ast.Call) and ast.unparse(part.func).endswith("import_module"):
            assert isinstance(part.args[0], ast.Constant), f"{module} imports a computed name"
            found.add(str(part.args[0].value).partition(".")[0])
    return found


everywhere = [module for package in OWN for module in modules(package)]


@pytest.mark.parametrize("module", everywhere)
def test_imports_point_one_way(module: str) -> None:
    """Node and exporter import shared but not each other; shared imports neither."""
    assert not imported(module) & FORBIDDEN[module.partition("/")[0]]


def named(module: str) -> set[str]:
    """Return the modules of the node, and names in them, that a module imports."""
    found: set[str] = set()
    for part in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            found |= {f"{part.module}.{alias.name}" for alias in part.names}
    return {name.removeprefix("node.") for name in found if name.startswith("node.")}


def room_of(name: str) -> str:
    """Return the innermost room of a module, or the module's own name if it is in none."""
    parts = name.split(".")
    inner = ".".join(parts[:2])
    return inner if inner in ROOMS else parts[0]


def modules_of(room: str) -> list[str]:
    found = {each: each.removeprefix("node/").replace("/", ".") for each in modules("node")}
    return [module for module, name in found.items() if room_of(name) == room]


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_from_its_neighbours_only(room: str) -> None:
    """A room imports only the rooms that the table allows."""
    inside = modules_of(room)
    assert inside
    for module in inside:
        others = {room_of(name) for name in named(module)} - {room}
        assert others & ROOMS.keys() <= ROOMS[room], module
        assert not others & COMPOSITION, module


@pytest.mark.parametrize("module", modules_of("mesh"))
def test_mesh_names_nothing_of_inference(module: str) -> None:
    """The mesh does not mention inference: the payload of an advert is opaque to it."""
    assert not INFERENCE.findall((ROOT / module).read_text())


@pytest.mark.parametrize("module", [m for m in modules("shared") if not m.startswith(RUNTIME)])
def test_shared_does_no_io(module: str) -> None:
    """The lower floor of shared needs no event loop, no sockets and few libraries."""
    names = imported(module)
    assert names - set(sys.stdlib_module_names) <= {*FOREIGN_IN_SHARED, "shared"}
    assert not names & INPUT_OUTPUT
    assert "shared.runtime" not in (ROOT / module).read_text()


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_is_imported_where_it_belongs(library: str) -> None:
    """A foreign library is imported only in the few modules that wrap it."""
    assert {module for module in everywhere if library in imported(module)} == ONLY_IN[library]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "node.main",
            ("prometheus_client", "exporter", "ctransformers", "huggingface_hub", "xllamacpp"),
        ),
        ("exporter.main", ("node", "ctransformers", "quart", "psutil")),
        ("shared.command", ("node", "exporter", "trio", "pynng")),
        ("node.serving.downloads.download", ("huggingface_hub", "httpx2")),
        ("node.engine.ctransformers.child", ("huggingface_hub", "httpx2", "trio")),
    ],
)
def test_process_does_not_load_the_others_libraries(module: str, absent: tuple[str, ...]) -> None:
    """A process does not load its forbidden libraries indirectly either."""
    program = (
        f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules], 'end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "end\n"
