"""The command `distributed-llm-node plan`: who would hold which layers of a model."""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from node.engine.shape import Shape, UnreadableModelError, read_shape
from node.mesh.messages import Advert, ModelAdvert
from node.routing.plan import Candidate, Plan, candidate, make_plan, mebibytes
from node.serving.catalogue import name_model
from shared.secret import parse_tokens
from shared.settings.kinds import FILE

PROGRAM: Final = "distributed-llm-node plan"
_ANSWER_SECONDS: Final = 10.0
_ANSWER_BYTES: Final = 64 * 2**20


class CannotPlanError(Exception):
    """There is nothing to plan with; the text is one line for a person."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and give its exit code: 0, 1 where nothing can be planned, 2 for misuse."""
    try:
        _plan.main(list(arguments), PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        return _complain(" ".join(error.format_message().split()), 2)
    except (CannotPlanError, UnreadableModelError) as error:
        return _complain(str(error), 1)
    return 0


@click.command(help="Say which nodes would hold which layers of a GGUF file MODEL.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--explain", is_flag=True, help="Say of each other node why it holds none.")
@click.option(
    "--api-url",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="A node of the mesh, whose view is taken.",
)
@click.option("--api-key-file", type=FILE, help="File with the key that the node's API asks for.")
@click.option("--replicas", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--context-length",
    type=click.IntRange(min=0),
    default=0,
    help="Tokens of context; 0 for what the model was trained with.",
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
    shape = read_shape(str(model))
    model_id = name_model(model)
    nodes = candidates(_ask(api_url, api_key_file), model_id)
    plan = make_plan(shape, nodes, replicas, context_length)
    for line in lines(model_id, shape, plan, explain=explain):
        sys.stdout.write(f"{line}\n")


def candidates(cluster: Any, model_id: str) -> list[Candidate]:
    """Read what `GET /cluster` answered.

    Raises:
        CannotPlanError: It is not what a node answers.
    """
    try:
        found = [candidate(cluster["node_id"], _advert(cluster["advert"]), model_id)]
        for peer in cluster["peers"]:
            if peer["advert"] is not None:
                barred = "" if peer["state"] == "alive" else f"it is {peer['state']}"
                advert = _advert(peer["advert"])
                found.append(candidate(peer["node_id"], advert, model_id, barred))
            else:
                found.append(Candidate(peer["node_id"], 0, 0, 0, barred=f"it is {peer['state']}"))
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise CannotPlanError(f"the node's answer is none of this version: {error}") from error
    return found


def lines(model_id: str, shape: Shape, plan: Plan, *, explain: bool) -> Iterator[str]:
    """Write a plan for a person."""
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
        yield f"  nobody has memory for layers {first}-{plan.layers - 1}"
    if explain:
        for left in plan.left_out:
            yield f"  {left.node_id} holds none: {left.why}"


def _advert(fields: dict[str, Any]) -> Advert:
    models = [_in_order(ModelAdvert, model) for model in fields["models"]]
    return msgspec.convert(_in_order(Advert, fields | {"models": models}), Advert)


def _in_order(kind: type[msgspec.Struct], fields: dict[str, Any]) -> list[Any]:
    return [fields[name] for name in kind.__struct_fields__]


def _ask(api_url: str, key_file: Path | None) -> Any:
    if not api_url.startswith(("http://", "https://")):
        raise click.UsageError(f"--api-url {api_url} is no http address")
    url = f"{api_url.rstrip('/')}/cluster"
    request = urllib.request.Request(url)  # noqa: S310 - the scheme was looked at
    try:
        if key_file is not None:
            keys = parse_tokens(key_file.read_text())
            request.add_header("Authorization", f"Bearer {keys[0]}")
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as response:  # noqa: S310
            return msgspec.json.decode(response.read(_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        remedy = ": give --api-key-file" if error.code == 401 else ""
        raise CannotPlanError(f"{url} answered {error.code}{remedy}") from error
    except IndexError as error:
        raise CannotPlanError(f"--api-key-file {key_file} holds no key") from error
    except (OSError, ValueError) as error:
        message = f"{url} does not answer ({error}): start a node, or give --api-url"
        raise CannotPlanError(message) from error


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"{PROGRAM}: {text}\n")
    return code
