"""The command `distributed-llm-node plan`: shows which nodes would hold which layers of a model."""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import trio

from node.engine.choice import Wanted
from node.engine.describe import describe
from node.engine.model_file import UnusableModelError
from node.engine.shape import Shape
from node.machine import mebibytes
from node.routing.holders import Member, read_holders
from node.routing.offer import Offer, OfferedModel, OfferedStage
from node.routing.plan import Plan, can_be_planned, make_plan
from node.serving.catalogue import name_model
from shared.secret import parse_bearer_tokens
from shared.settings.kinds import FILE

PROGRAM: Final = "distributed-llm-node plan"
_ANSWER_SECONDS: Final = 10.0
_ANSWER_BYTES: Final = 64 * 2**20


class CannotPlanError(Exception):
    """No plan can be made. The text is one line for the user."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, 1 without a plan, 2 for incorrect usage."""
    try:
        _plan.main(list(arguments), PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        return _complain(" ".join(error.format_message().split()), 2)
    except (CannotPlanError, UnusableModelError, OSError) as error:
        return _complain(str(error), 1)
    return 0


@click.command(help="Show which nodes would hold which layers of a GGUF file MODEL.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--explain", is_flag=True, help="Also show why each other node holds none.")
@click.option(
    "--api-url",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="API of a node, whose view of the mesh is used.",
)
@click.option("--api-key-file", type=FILE, help="File with an API key of that node.")
@click.option("--replicas", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--context-length",
    type=click.IntRange(min=0),
    default=0,
    help="Tokens of context; 0 for the model's training context.",
)
def _plan(
    model: Path,
    api_url: str,
    api_key_file: Path | None,
    replicas: int,
    context_length: int,
    *,
    explain: bool,
) -> None:
    described = trio.run(describe, model, Wanted())
    shape = described.shape
    if not can_be_planned(len(shape.layer_bytes)):
        raise CannotPlanError(f"{model} has {len(shape.layer_bytes)} layers: its header is damaged")
    nodes = members(_ask(api_url, api_key_file))
    model_id = _find_name(nodes, described.fingerprint) or name_model(model)
    plan = make_plan(shape, read_holders(nodes, model_id), replicas, context_length)
    for line in lines(model_id, shape, plan, explain=explain):
        sys.stdout.write(f"{line}\n")
    for line in running(nodes, model_id) if explain else ():
        sys.stdout.write(f"{line}\n")


def read_shape(path: Path) -> Shape:
    """Read a model's shape from its file's header, in a process that may die from it.

    Raises:
        UnusableModelError: The file does not exist, or no engine runs it.
        OSError: No process, pipe or memory is available now.
    """
    return trio.run(describe, path, Wanted()).shape


def members(cluster: Any) -> list[Member]:
    """Read the nodes from the response of `GET /cluster`.

    Raises:
        CannotPlanError: It is not the response of a node of this version.
    """
    try:
        return [
            _member(cluster["node_id"], cluster["advert"]),
            *(_member(p["node_id"], p["advert"], _bar(p["state"])) for p in cluster["peers"]),
        ]
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        message = f"the response is not from a node of this version: {error}"
        raise CannotPlanError(message) from error


def _find_name(nodes: Sequence[Member], fingerprint: str) -> str:
    """Return the name under which a node serves the file; empty if none does."""
    offered = (model for node in nodes if node.offer for model in node.offer.models)
    return next((model.model_id for model in offered if model.fingerprint == fingerprint), "")


def running(nodes: Sequence[Member], model_id: str) -> Iterator[str]:
    """Yield the lines that show where the model runs now."""
    shown = False
    for node in nodes:
        offer = None if node.barred else node.offer
        stages = [s for s in offer.stages if s.model_id == model_id] if offer else []
        for stage in stages:
            layers = f"layers {stage.first}-{stage.first + stage.layers - 1}"
            yield (
                f"  runs: {layers if stage.layers else 'no layers'} on {stage.node_id}, "
                f"{mebibytes(stage.memory_bytes)}, {stage.state}, coordinated by {node.node_id}"
            )
        states = [m.state for m in offer.models if m.model_id == model_id] if offer else []
        if "ready" in states and not stages:
            yield f"  runs: all layers on {node.node_id}"
        shown = shown or bool(stages) or "ready" in states
    if not shown:
        yield "  runs: nowhere"


def _member(node_id: str, advert: Any, barred: str = "") -> Member:
    if advert is None:
        return Member(node_id, None, "unknown", barred)
    return Member(node_id, _offer(advert), advert["status"], barred)


def _bar(state: str) -> str:
    return "" if state == "alive" else f"it is {state}"


def lines(model_id: str, shape: Shape, plan: Plan, *, explain: bool) -> Iterator[str]:
    """Yield the lines that show a plan."""
    yield f"{model_id}: {plan.layers} layers, {mebibytes(shape.size_bytes)} of weights"
    width = max([len(share.node_id) for share in plan.shares], default=0)
    for share in plan.shares:
        held = "all layers" if plan.whole else f"layers {share.first}-{share.last}"
        yield (
            f"  {share.node_id:<{width}}  {held}, predicted {mebibytes(share.memory_bytes)} "
            f"of {mebibytes(share.free_bytes)} free"
        )
    if plan.unserved:
        first = plan.layers - plan.unserved
        yield f"  layers {first}-{plan.layers - 1} do not fit on any node"
    if explain:
        for left in plan.left_out:
            yield f"  {left.node_id} holds none: {left.why}"


def _offer(fields: dict[str, Any]) -> Offer:
    models = [_in_order(OfferedModel, model) for model in fields["models"]]
    stages = [_in_order(OfferedStage, stage) for stage in fields["stages"]]
    return msgspec.convert(_in_order(Offer, fields | {"models": models, "stages": stages}), Offer)


def _in_order(kind: type[msgspec.Struct], fields: dict[str, Any]) -> list[Any]:
    return [fields[name] for name in kind.__struct_fields__]


def _ask(api_url: str, key_file: Path | None) -> Any:
    if not api_url.startswith(("http://", "https://")):
        raise click.UsageError(f"--api-url {api_url} is not a URL with http or https")
    url = f"{api_url.rstrip('/')}/cluster"
    request = urllib.request.Request(url)  # noqa: S310 - the scheme was checked
    if key_file is not None:
        request.add_header("Authorization", f"Bearer {_read_key(key_file)}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as response:  # noqa: S310
            return msgspec.json.decode(response.read(_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        remedy = ": set --api-key-file" if error.code == 401 else ""
        raise CannotPlanError(f"{url} answered {error.code}{remedy}") from error
    except (OSError, ValueError) as error:
        message = f"{url} does not answer ({error}): start a node, or set --api-url"
        raise CannotPlanError(message) from error


def _read_key(file: Path) -> str:
    try:
        return parse_bearer_tokens(file.read_bytes())[0]
    except OSError as error:
        raise CannotPlanError(f"--api-key-file {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CannotPlanError(f"--api-key-file {file}: {error}") from error


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"{PROGRAM}: {text}\n")
    return code
