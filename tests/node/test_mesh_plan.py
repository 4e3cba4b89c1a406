"""The plan places every layer once, within each node's memory, and equally on every node."""

import itertools
import random
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.shape import Buffers, Shape, even_shape
from node.routing.explain import running
from node.routing.footprint import _WORKER_BYTES
from node.routing.holders import Holder, Member, read_holders
from node.routing.offer import LARGEST_COUNT, Offer, OfferedModel, OfferedStage
from node.routing.plan import Plan, can_be_planned, make_plan, make_split

MIB = 2**20

shapes = st.builds(
    Shape,
    layer_bytes=st.lists(st.integers(1, 500 * MIB), min_size=1, max_size=40).map(tuple),
    embedding_bytes=st.integers(0, 300 * MIB),
    output_bytes=st.integers(0, 300 * MIB),
    is_tied=st.booleans(),
    position_bytes=st.integers(0, 2 * MIB),
    context_length=st.integers(0, 512),
    buffers=st.builds(Buffers, *[st.integers(0, 200 * MIB)] * 3),
)


@st.composite
def meshes(draw: st.DrawFn) -> list[Holder]:
    """Draw nodes of all kinds with different names."""
    count = draw(st.integers(0, 12))
    return [
        Holder(
            node_id=f"n{number}",
            free_bytes=draw(st.integers(0, 8_000 * MIB)),
            speed=draw(st.sampled_from([0.0, 1e8, 5e9]) | st.floats(0, 1e12)),
            cores=draw(st.floats(0, 256)),
            has_model=draw(st.booleans()),
            barred=draw(st.sampled_from(["", "", "", "it is draining"])),
            rpc_build=draw(st.sampled_from(["b1", "b1", "b1", "b2", ""])),
        )
        for number in range(count)
    ]


def node(name: str, free_mib: int, speed: float = 0.0, **more: object) -> Holder:
    fields = {"cores": 4.0, "has_model": False, "rpc_build": "b1"} | more
    values = {"node_id": name, "free_bytes": free_mib * MIB, "speed": speed} | fields
    return Holder(**values)  # type: ignore[arg-type]


def shape_of(layers: int, mib: int) -> Shape:
    return even_shape(layers * mib * MIB, layers, 0, 0)


def ranges(plan: Plan) -> list[tuple[str, int, int]]:
    return [(share.node_id, share.first, share.last) for share in plan.shares]


@given(shapes, meshes(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_plan_is_sound(
    shape: Shape, nodes: list[Holder], replicas: int, shuffling: random.Random
) -> None:
    """Parts are contiguous, disjoint and within memory; the order of nodes does not matter."""
    plan = make_plan(shape, nodes, replicas)
    shuffled = shuffling.sample(nodes, len(nodes))
    assert make_plan(shape, shuffled, replicas) == plan
    free = {each.node_id: each.free_bytes for each in nodes if not each.barred}
    assert all(share.memory_bytes <= free[share.node_id] for share in plan.shares)
    used = {share.node_id for share in plan.shares} | {plan.coordinator} - {""}
    assert sorted([*used, *(left.node_id for left in plan.left_out)]) == sorted(
        each.node_id for each in nodes
    )
    if not plan.whole:
        builds = {each.rpc_build for each in nodes if each.node_id in used}
        assert len(builds) <= 1
        assert "" not in builds
    layers = len(shape.layer_bytes)
    if plan.whole:
        assert {(share.first, share.last) for share in plan.shares} == {(0, layers - 1)}
        assert 1 <= len(plan.shares) <= replicas
        assert plan.unserved == 0
    else:
        placed = [layer for s in plan.shares for layer in range(s.first, s.last + 1)]
        assert placed == list(range(layers - plan.unserved))


@given(shapes, st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_memory_that_suffices_is_found(shape: Shape, weights: list[int]) -> None:
    """If the memory suffices with room for one more part per node, all layers are placed."""
    cache = shape.position_bytes * shape.context_length
    ends = shape.embedding_bytes * 2 + shape.output_bytes
    buffers = shape.buffers
    part = 2 * max(shape.layer_bytes) + cache + buffers.total_bytes + 1 + 2 * ends
    needed = shape.size_bytes + cache + buffers.recent_bytes + 2 * len(shape.layer_bytes) + ends
    nodes = [
        node(f"n{i}", 0, free_bytes=_WORKER_BYTES + part + needed * weight // sum(weights) + 1)
        for i, weight in enumerate(weights)
    ]
    assert make_plan(shape, nodes, 1).unserved == 0


def test_model_that_fits_is_whole_with_replicas() -> None:
    """Nodes with the file come first, then the fastest; the others get the reason."""
    nodes = [
        node("slow", 4000, 1e9),
        node("fast", 4000, 9e9),
        node("owner", 4000, 1e8, has_model=True),
        node("small", 500, 9e9),
        node("gone", 9000, barred="it is draining"),
    ]
    plan = make_plan(shape_of(10, 100), nodes, 2)
    assert plan.whole
    assert ranges(plan) == [("owner", 0, 9), ("fast", 0, 9)]
    assert {left.node_id: left.why for left in plan.left_out} == {
        "gone": "it is draining",
        "slow": "there are enough replicas",
        "small": "the model needs 1,000 MiB, it has 500 MiB free",
    }


def test_split_gives_the_faster_node_more() -> None:
    """If memory is ample, layers are distributed by measured speed."""
    nodes = [node("a", 1100, 3e9), node("b", 1100, 1e9)]
    plan = make_plan(shape_of(12, 100), nodes, 1)
    assert not plan.whole
    assert ranges(plan) == [("a", 0, 8), ("b", 9, 11)]
    even = [node("a", 1100), node("b", 1100)]
    assert ranges(make_plan(shape_of(12, 100), even, 1)) == [("a", 0, 5), ("b", 6, 11)]


def test_split_takes_no_more_nodes_than_it_needs() -> None:
    """Each cut costs time on the network, so that small nodes are not used."""
    nodes = [node("a", 1000), node("b", 900), node("c", 800), node("d", 100)]
    plan = make_plan(shape_of(14, 100), nodes, 1)
    assert {share.node_id for share in plan.shares} == {"a", "b"}
    assert {left.node_id: left.why for left in plan.left_out} == {
        "c": "the others hold all layers",
        "d": "one layer needs 166 MiB, it has 100 MiB free",
    }


def test_what_nobody_holds_is_counted() -> None:
    """If the model is too large for all nodes, the missing layers are counted."""
    plan = make_plan(shape_of(20, 100), [node("a", 400), node("b", 700)], 1)
    assert ranges(plan) == [("a", 0, 3), ("b", 4, 9)]
    assert plan.unserved == 10
    assert make_plan(shape_of(20, 100), [], 1).unserved == 20


def test_ends_of_the_model_are_reckoned_with() -> None:
    """The embedding is with the first layer, and the output with the last."""
    shape = Shape((100 * MIB,) * 4, 300 * MIB, 200 * MIB, True, 1024, 0)
    plan = make_plan(shape, [node("a", 700), node("b", 850)], 1)
    sizes = {share.node_id: share.memory_bytes // MIB for share in plan.shares}
    # The last layer would take the embedding once more, to another node.
    assert ranges(plan) == [("a", 0, 2)]
    assert sizes == {"a": 300 + 300}
    assert plan.unserved == 1
    untied = Shape(shape.layer_bytes, 300 * MIB, 200 * MIB, False, 1024, 0)
    assert make_plan(untied, [node("a", 700), node("b", 850)], 1).unserved == 0


def test_context_takes_memory() -> None:
    """The predicted memory includes the requested context."""
    shape = Shape((MIB,) * 2, 0, 0, False, 1024, 2048)
    for asked, expected in ((0, 2 * MIB), (4096, 4 * MIB)):
        [share] = make_plan(shape, [node("a", 1000)], 1, asked).shares
        assert share.memory_bytes == 2 * MIB + expected


def test_offer_becomes_a_holder() -> None:
    """Memory of other models is not free; a node that is leaving gets no layers."""
    idle = Offer("http://x:1", "e", 2.0, 2**33, 8, 0.0)
    held = (
        OfferedModel("m", "ready", 8, 100 * MIB, 0, 0, 0, 0, 0, 1),
        OfferedModel("o", "ready", 8, 900 * MIB, 0, 0, 0, 0, 0, 1, held_bytes=950 * MIB),
        OfferedModel("p", "unloaded", 8, 900 * MIB, 0, 0, 0, 0, 0, 1),
    )
    [free] = read_holders([Member("a", idle, "online")], "m")
    offer = msgspec.structs.replace(idle, models=held)
    [loaded] = read_holders([Member("a", offer, "online")], "m")
    assert free.free_bytes - loaded.free_bytes == 950 * MIB
    assert loaded.has_model
    [draining] = read_holders([Member("a", idle, "draining")], "m")
    assert draining.barred == "it is draining"
    [unknown] = read_holders([Member("a", None, "online")], "m")
    assert unknown.barred


def test_memory_lent_to_other_models_is_not_free() -> None:
    """A node's stages of other models count; those of the model itself are about to end."""
    stages = (OfferedStage("m", "b", 0, 4, 100 * MIB), OfferedStage("o", "b", 0, 4, 300 * MIB))
    idle = Offer("http://x:1", "e", 2.0, 2**33, 8, 0.0)
    coordinator = Member("a", msgspec.structs.replace(idle, stages=stages), "online")
    first, second = read_holders([coordinator, Member("b", idle, "online")], "m")
    assert first.free_bytes - second.free_bytes == 300 * MIB


def test_what_runs_is_shown() -> None:
    """The stages of a split model, a whole model, and a model that runs nowhere."""
    stages = (
        OfferedStage("m", "a", 0, 0, 90 * MIB, "up"),
        OfferedStage("m", "b", 0, 8, 80 * MIB, "up"),
    )
    loaded = OfferedModel("whole", "ready", 8, 100 * MIB, 0, 0, 0, 0, 0, 1)
    idle = Offer("http://x:1", "e", 2.0, 2**33, 8, 0.0)
    offer = msgspec.structs.replace(idle, stages=stages, models=(loaded,))
    nodes = [
        Member("a", offer, "online"),
        Member("b", idle, "online"),
        Member("c", None, "unknown"),
    ]
    assert list(running(nodes, "m")) == [
        "  runs: no layers on a, 90 MiB, up, coordinated by a",
        "  runs: layers 0-7 on b, 80 MiB, up, coordinated by a",
    ]
    assert list(running(nodes, "whole")) == ["  runs: all layers on a"]
    assert list(running(nodes, "other")) == ["  runs: nowhere"]


def test_split_needs_one_build_and_the_file() -> None:
    """The first node with the file coordinates; other builds are left out, with the reason."""
    nodes = [
        node("a", 900),
        node("b", 900, has_model=True),
        node("c", 900, has_model=True),
        node("d", 900, rpc_build="b2"),
        node("e", 900, rpc_build=""),
    ]
    plan = make_plan(shape_of(14, 100), nodes, 1)
    assert (plan.coordinator, plan.unserved) == ("b", 0)
    assert plan.shares[0].node_id == "b"
    why = {left.node_id: left.why for left in plan.left_out}
    assert why["d"] == "its build is b2, not b1 like the coordinator's"
    assert why["e"].startswith("it offers no worker")
    forced = make_split(shape_of(8, 100), nodes, "c")
    assert (forced.coordinator, forced.whole) == ("c", False)


def test_coordinator_without_room_for_a_layer_has_the_embedding() -> None:
    """A coordinator may hold no layers, but always the embedding and the engine."""
    shape = Shape((100 * MIB,) * 4, 300 * MIB, 50 * MIB, False, 0, 0, Buffers(64 * MIB, 8 * MIB, 0))
    nodes = [node("a", 380, has_model=True), node("b", 700)]
    plan = make_plan(shape, nodes, 1)
    assert (plan.coordinator, plan.coordinator_bytes) == ("a", (300 + 64 + 8) * MIB)
    assert ranges(plan) == [("b", 0, 3)]
    less = make_plan(shape, [node("a", 370, has_model=True), node("b", 700)], 1)
    assert less.unserved == 4
    assert "a coordinator of it needs 372 MiB" in {x.node_id: x.why for x in less.left_out}["a"]


amounts = st.sampled_from([0.0, 5e-324, 1e-30, 1.0, 1e18]) | st.floats(0, 1e18)
counts = st.sampled_from([0, 1, LARGEST_COUNT]) | st.integers(0, LARGEST_COUNT)
absurd_offers = st.builds(
    Offer,
    api_url=st.just(""),
    engine=st.just("e"),
    cpu_cores=amounts,
    memory_bytes=counts,
    max_layers=counts,
    bytes_per_second=amounts,
    models=st.lists(
        st.builds(
            OfferedModel,
            model_id=st.sampled_from(["m", "o"]),
            state=st.sampled_from(["ready", "failed"]),
            **dict.fromkeys(OfferedModel.__struct_fields__[2:10], counts),
            held_bytes=counts,
        ),
        max_size=3,
    ).map(tuple),
    rpc_build=st.sampled_from(["", "b1"]),
    stages=st.lists(
        st.builds(
            OfferedStage,
            st.sampled_from(["m", "o"]),
            st.sampled_from(["n0", "n1"]),
            *[counts] * 3,
        ),
        max_size=3,
    ).map(tuple),
)


@given(shapes, st.lists(absurd_offers, max_size=6))
def test_absurd_offer_breaks_no_plan(shape: Shape, offers: list[Offer]) -> None:
    """With any numbers from peers there is a plan that places no layer twice."""
    nodes = read_holders([Member(f"n{i}", o, "online") for i, o in enumerate(offers)], "m")
    plan = make_plan(shape, nodes, 2)
    placed = sum(share.last - share.first + 1 for share in plan.shares)
    assert plan.whole or placed == plan.layers - plan.unserved


@pytest.mark.parametrize("layers", [0, -1, 20_000_000, 10**12])
def test_layers_that_no_model_has_are_not_planned(layers: int) -> None:
    """A damaged layer count costs neither memory nor time."""
    assert not can_be_planned(layers)
    assert can_be_planned(126)


def test_plan_of_a_large_mesh_is_quick() -> None:
    """Fifty nodes and 128 layers are planned in much less than a round."""
    nodes = [node(f"n{i:02}", 4000 + 37 * i, 1e9 + 1e7 * (i * 7 % 50)) for i in range(50)]
    shape = shape_of(128, 500)
    assert make_plan(shape, nodes, 2).unserved == 0
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        make_plan(shape, nodes, 2)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.2  # ten times the promise; the benchmark measures


def test_cuts_are_where_the_slowest_part_is_fastest() -> None:
    """No other cut over the same nodes is faster than the plan."""
    sizes = (30, 70, 20, 90, 50, 40, 60)
    shape = Shape(tuple(size * MIB for size in sizes), 0, 0, False, 0, 0)
    nodes = [node("a", 340, 2e9), node("b", 330, 3e9), node("c", 320, 1e9)]
    plan = make_plan(shape, nodes, 1)
    speeds = {each.node_id: each.speed for each in nodes}
    ours = max(
        sum(shape.layer_bytes[s.first : s.last + 1]) / speeds[s.node_id] for s in plan.shares
    )
    order = [share.node_id for share in plan.shares]
    room = {each.node_id: each.free_bytes - _WORKER_BYTES - 45 * MIB for each in nodes}
    room["a"] = nodes[0].free_bytes  # the coordinator
    best = min(
        max(part / speeds[name] for part, name in zip(parts, order, strict=True))
        for cuts in itertools.combinations(range(1, len(sizes)), len(order) - 1)
        if (
            parts := [
                sum(shape.layer_bytes[a:b]) for a, b in itertools.pairwise((0, *cuts, len(sizes)))
            ]
        )
        and all(part <= room[name] for part, name in zip(parts, order, strict=True))
    )
    assert ours == pytest.approx(best)
