"""A split is coordinated by one node, with exact layers on exact workers."""

import itertools
from typing import Any

import msgspec
import pytest

from node.engine.place import Stage
from node.engine.shape import Shape
from node.pipeline.placing import Rival, explain, find_server, place_of, plan_around
from node.pipeline.splits import split_flags
from node.routing.holders import Holder
from node.routing.offer import OfferedModel
from node.routing.plan import make_split

MIB = 2**20
SHAPE = Shape((100 * MIB,) * 10, 50 * MIB, 20 * MIB, True, 0, 0)


def node(name: str, free_mib: int = 700, **more: Any) -> Holder:
    values: dict[str, Any] = {"has_model": True, "rpc_build": "b1"} | more
    return Holder(name, free_mib * MIB, 0.0, 4.0, **values)


def rival(name: str, state: str = "unloaded", **more: Any) -> Rival:
    coordinates = more.pop("coordinates", False)
    model = OfferedModel("m", "unloaded", 10, 0, 0, 0, 0, 0, 0, 1)
    return Rival(name, msgspec.structs.replace(model, state=state, **more), coordinates)


@pytest.mark.parametrize(
    ("rivals", "server"),
    [
        ([], ""),
        ([rival("c")], ""),
        ([rival("a")], "a"),
        ([rival("a", elsewhere=True)], "a"),
        ([rival("a", "failed")], ""),
        ([rival("c", "ready")], "c"),
        ([rival("c", "loading", coordinates=True), rival("a")], "c"),
        ([rival("big")], "big"),
        ([rival("big", elsewhere=True)], ""),
    ],
)
def test_one_node_coordinates(rivals: list[Rival], server: str) -> None:
    """It is the one that does so already, one that holds the model whole, or the first by name."""
    holders = [node("a"), node("b"), node("c"), node("big", 4000)]
    assert find_server("b", SHAPE, holders, rivals) == server


def test_node_that_cannot_coordinate_is_not_waited_for() -> None:
    """A node of another build, or without memory, leaves the model to the next one."""
    holders = [node("a", rpc_build="b2"), node("b"), node("c")]
    assert find_server("b", SHAPE, holders, [rival("a")]) == ""


def test_nodes_that_failed_are_used_last_of_all() -> None:
    """They are left out while the others hold the model; then the first that failed comes back."""
    holders = [node("a"), node("b", 900), node("c", 800), node("d", 700)]
    failed = {"b": "its worker was lost", "c": "its worker was lost"}
    around = plan_around(SHAPE, holders, "a", failed)
    assert {share.node_id for share in around.shares} == {"a", "d"}
    assert ("b", "its worker was lost") in [(left.node_id, left.why) for left in around.left_out]
    again = plan_around(SHAPE, holders[:3], "a", failed)
    assert {share.node_id for share in again.shares} == {"a", "b"}


def test_plan_becomes_a_place() -> None:
    """The stages are contiguous, this node's is the first, and the output goes with the last."""
    place = place_of(make_split(SHAPE, [node("a"), node("b")], "a"), SHAPE)
    first, second = place.stages
    assert (first.node_id, first.first, second.node_id, second.end) == ("a", 0, "b", 10)
    assert first.end == second.first == place.layers
    assert place.weights_bytes == (50 + 100 * place.layers) * MIB
    assert place.weights_bytes + place.remote_bytes == SHAPE.size_bytes + 50 * MIB  # it is tied


def test_reasons_are_named() -> None:
    """A model that cannot be held is explained with the nodes that are left out."""
    plan = make_split(SHAPE, [node("a"), node("b", rpc_build="b2")], "a")
    text = explain(plan, "it is too large")
    assert text.startswith("it is too large. Split, layers 6-9 fit on no node (b: its build is b2")


def test_flags_place_exact_layers() -> None:
    """The numbers add up to the workers' layers and the output, which the last one holds."""
    workers = [Stage("b", 4, 7, 0), Stage("c", 7, 10, 0)]
    flags = split_flags(workers, ["127.0.0.1:1", "127.0.0.1:2"])
    values = dict(itertools.pairwise(flags))
    assert values["--rpc"] == "127.0.0.1:1,127.0.0.1:2"
    assert values["--device"] == "RPC0,RPC1"
    assert values["--tensor-split"] == "3,4"
    assert values["--n-gpu-layers"] == "7"
