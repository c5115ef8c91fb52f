"""What plans do to named arrays."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rejuvenet.graph import (
    ChannelGroup,
    Plan,
    Recipe,
    apply,
    arrange_plan,
    reorganize_plan,
    transform,
)
from rejuvenet.graph.change.new_channels import draw, fan_in, generator
from rejuvenet.graph.find.channels import Member


def reorganize(network, recipe=None, **changes):
    group = replace(network.group, **changes)
    return reorganize_plan(group, network.weights, recipe, network.means())


def copied(weights):
    return {name: value.copy() for name, value in weights.items()}


def same_bytes(a, b):
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize("order", ["random", "sofm"])
def test_arrange_keeps_the_function_and_can_be_undone(network, order):
    before, outputs = copied(network.weights), network.run()
    plan = arrange_plan([network.group], order, {"first": network.means()})
    assert plan.groups[0].moved > 0
    assert set(apply(plan, network.weights)) == set(before)
    assert not np.array_equal(network.weights["first"], before["first"])
    np.testing.assert_allclose(network.run(), outputs, rtol=1e-4, atol=1e-5)
    apply(plan.inverse(), network.weights)
    assert same_bytes(network.weights, before)


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.int32, bool]
)
def test_arrange_moves_any_type_bit_by_bit(network, dtype):
    weights = {name: (value * 9).astype(dtype) for name, value in network.weights.items()}
    plan = arrange_plan([network.group], "random")
    moved = transform(plan, weights)
    order = plan.groups[0].order
    assert moved["first"].dtype == dtype
    assert moved["first"].tobytes() == weights["first"][order].tobytes()
    assert moved["second"].tobytes() == weights["second"][:, order].tobytes()


@pytest.mark.parametrize("method", ["sofm", "kmeans"])
@pytest.mark.parametrize("merge", ["mean", "medoid"])
@pytest.mark.parametrize("placement", ["map", "in_place"])
def test_duplicates_merge_exactly(make_network, method, merge, placement):
    network = make_network(copies=2)
    outputs = network.run()
    recipe = Recipe(method=method, merge=merge, placement=placement, outgoing="sum")
    plan = reorganize(network, recipe)
    assert (len(plan.survivors), plan.merged, len(plan.new)) == (6, 12, 6)
    apply(plan, network.weights)
    np.testing.assert_allclose(network.run(), outputs, rtol=1e-4, atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 1000))
def test_duplicates_merge_exactly_for_any_share(make_network, distinct, copies, seed):
    network = make_network(distinct * copies, seed, copies, np.float64)
    outputs = network.run()
    apply(reorganize(network, Recipe(ratio=1 / copies, outgoing="sum")), network.weights)
    np.testing.assert_allclose(network.run(), outputs, rtol=1e-9, atol=1e-9)


def test_merge_in_loops(network):
    """Every member against sums over channels one by one."""
    for recipe in (Recipe(), Recipe.paper(new_outgoing="zero")):
        plan = reorganize(network, recipe)
        result = transform(plan, network.weights)
        for p in plan.survivors:
            for name in ("first", "bias", "scale", "shift", "mean", "var"):
                w = network.weights[name].astype(np.float64)
                expected = sum(plan.A[p, j] * w[j] for j in range(12))
                np.testing.assert_allclose(result[name][p], expected, rtol=1e-6, atol=1e-7)
            V = network.weights["second"].astype(np.float64)
            expected = sum(plan.B[p, j] * V[:, j] for j in range(12))
            np.testing.assert_allclose(result["second"][:, p], expected, rtol=1e-6, atol=1e-6)
        assert all(result[name].dtype == np.float32 for name in result)


def test_new_channels_start_fresh_and_change_nothing(network):
    plan = reorganize(network)
    result = transform(plan, network.weights)
    new = plan.new
    assert new.size
    for name, value in {"bias": 0, "scale": 1, "shift": 0, "mean": 0, "var": 1}.items():
        assert (result[name][new] == value).all()
    assert (result["second"][:, new] == 0).all()
    assert np.unique(result["first"][new]).size == result["first"][new].size
    network_after = replace(network, weights=result)
    outputs = network_after.run()
    result["first"][new] *= 3.0
    np.testing.assert_array_equal(network_after.run(), outputs)


@pytest.mark.parametrize("init", ["kaiming", "match", "orthogonal"])
def test_spread_of_new_channels(make_network, init):
    network = make_network(400)
    network.weights["first"] *= 0.3
    plan = reorganize(network, Recipe.comparison("l2", init=init, new_outgoing="random"))
    result = transform(plan, network.weights)
    fresh, present = result["first"][plan.new], network.weights["first"][plan.survivors]
    if init == "orthogonal":  # more rows than inputs: orthonormal columns
        np.testing.assert_allclose(fresh.T @ fresh, 2 * np.eye(6), atol=1e-5)
    else:
        expected = present.std() if init == "match" else np.sqrt(2 / 6)
        assert fresh.std() == pytest.approx(expected, rel=0.1)
    outgoing = result["second"][:, plan.new]
    expected = {"match": network.weights["second"].std(), "kaiming": np.sqrt(2 / 400)}
    if init in expected:
        assert outgoing.std() == pytest.approx(expected[init], rel=0.1)


def test_orthogonal_rows():
    member = Member("w", "producer", "weight", (8, 3, 3, 3), (0,), np.arange(8)[:, None])
    rows = draw((5, 1, 3, 3, 3), "orthogonal", member, np.zeros(0), generator(0, "w"))
    np.testing.assert_allclose(
        rows.reshape(5, -1) @ rows.reshape(5, -1).T, 2 * np.eye(5), atol=1e-9
    )


@pytest.mark.parametrize(
    ("kind", "view", "axes", "expected"),
    [
        ("producer", (16, 8, 3, 3), (0,), 72),
        ("consumer", (16, 8, 3, 3), (1,), 72),
        ("consumer", (10, 64), (1,), 64),
        ("consumer", (64, 10), (0,), 64),
        ("consumer", (4, 6, 2, 3, 3), (0, 2), 18),
        ("per_channel", (16, 1, 3, 3), (0,), 9),
    ],
)
def test_fan_in(kind, view, axes, expected):
    assert fan_in(Member("w", kind, "weight", view, axes, np.zeros((1, 1), int))) == expected


def test_new_depthwise_filters_buffers_and_slopes(network, make_member):
    members = (
        *network.group.members,
        make_member("depthwise", "per_channel", "weight", (12, 1, 3, 3), 0),
        make_member("blur", "per_channel", "weight", (12, 1, 3, 3), 0, trained=False),
        make_member("slope", "per_channel", "slope", (12,), 0),
    )
    rng = np.random.default_rng(0)
    for name in ("depthwise", "blur"):
        network.weights[name] = rng.normal(size=(12, 1, 3, 3)).astype("f4")
    network.weights["slope"] = rng.random(12).astype("f4")
    plan = reorganize(network, members=members)
    result = transform(plan, network.weights)
    new, survivors = plan.new, plan.survivors
    np.testing.assert_array_equal(result["blur"][new], network.weights["blur"][new])
    assert np.unique(result["depthwise"][new]).size == new.size * 9
    np.testing.assert_allclose(result["slope"][new], result["slope"][survivors].mean(), rtol=1e-6)
    expected = np.tensordot(plan.A[survivors], network.weights["blur"], 1)
    np.testing.assert_allclose(result["blur"][survivors], expected, rtol=1e-5, atol=1e-6)


def test_channels_with_several_rows(network):
    """A linear layer behind a flatten: four rows a channel, in another order than the channels."""
    rng = np.random.default_rng(0)
    positions = rng.permutation(48).reshape(12, 4)
    member = Member("flat", "consumer", "weight", (3, 48), (1,), positions, "first")
    network.weights["flat"] = rng.normal(size=(3, 48)).astype("f4")
    plan = reorganize(network, members=(*network.group.members, member))
    result = transform(plan, network.weights)["flat"]
    V = network.weights["flat"].astype(np.float64)
    for p in range(12):
        expected = sum(plan.B[p, j] * V[:, positions[j]] for j in range(12))
        np.testing.assert_allclose(result[:, positions[p]], expected, atol=1e-6)


def test_joint_axes_of_a_grouped_convolution():
    """Input channel ``i`` of group ``g`` is row ``(g, i)`` of ``(groups, o, i)``."""
    rng = np.random.default_rng(0)
    weights = {"make": rng.normal(size=(8, 3)), "read": rng.normal(size=(6, 4))}
    members = (
        Member("make", "producer", "weight", (8, 3), (0,), np.arange(8)[:, None], "make"),
        Member("read", "consumer", "weight", (2, 3, 4), (0, 2), np.arange(8)[:, None], "make"),
    )
    sets = (np.arange(4), np.arange(4, 8))
    group = ChannelGroup("make", 8, members, None, sets)
    x = rng.normal(size=(10, 3))

    def run(w):
        h = np.maximum(x @ w["make"].T, 0).reshape(10, 2, 4)
        return np.einsum("ngi,goi->ngo", h, w["read"].reshape(2, 3, 4))

    moved = transform(arrange_plan([group], "random"), weights)
    assert not np.array_equal(moved["read"], weights["read"])
    np.testing.assert_allclose(run(moved), run(weights), atol=1e-12)
    plan = reorganize_plan(group, weights, Recipe.comparison("l2"))
    zeroed = {**weights, "make": np.where(np.isin(np.arange(8), plan.new)[:, None], 0,
                                          weights["make"])}  # fmt: skip
    np.testing.assert_allclose(run(transform(plan, weights)), run(zeroed), atol=1e-12)


def stacked(network, make_member):
    """The network, and a third layer, so that ``second`` is read by one group, made by another."""
    rng = np.random.default_rng(1)
    weights = {**network.weights, "third": rng.normal(size=(4, 5)).astype("f4")}
    members = (
        make_member("second", "producer", "weight", (5, 12), 0, origin="second"),
        make_member("third", "consumer", "weight", (4, 5), 1, origin="second"),
    )
    group = ChannelGroup("second", 5, members, None, (np.arange(5),))
    return weights, group


@pytest.mark.parametrize("new_outgoing", ["zero", "random"])
@pytest.mark.parametrize("init", ["match", "kaiming", "orthogonal"])
def test_plans_compose_in_any_order(network, make_member, new_outgoing, init):
    weights, group = stacked(network, make_member)
    options = {"new_outgoing": new_outgoing, "init": init}
    one = reorganize(network, Recipe(**options))
    two = reorganize_plan(group, weights, Recipe.comparison("l2", **options))
    forth, back = transform(Plan([one, two]), weights), transform(Plan([two, one]), weights)
    assert set(forth) == set(weights)
    for name in forth:
        np.testing.assert_allclose(forth[name], back[name], rtol=1e-6, atol=1e-7)
    corner = forth["second"][np.ix_(two.new, one.new)]
    assert (corner == 0).all() == (new_outgoing == "zero")
    kept = np.ix_(two.survivors, one.survivors)
    expected = transform(two, {**weights, **transform(one, weights)})["second"][kept]
    np.testing.assert_allclose(forth["second"][kept], expected, rtol=1e-6, atol=1e-7)


def test_arrangements_compose_bit_by_bit(network, make_member):
    weights, group = stacked(network, make_member)
    plan = arrange_plan([network.group, group], "random", seed=4)
    first, second = (p.order for p in plan.groups)
    moved = transform(plan, weights)
    np.testing.assert_array_equal(moved["second"], weights["second"][np.ix_(second, first)])


def test_weight_with_two_axes_in_one_group(make_member):
    """A recurrent matrix: made and read by the same channels along different axes."""
    rng = np.random.default_rng(0)
    weights = {"loop": rng.normal(size=(6, 6)), "out": rng.normal(size=(2, 6))}
    members = (
        make_member("loop", "producer", "weight", (6, 6), 0),
        make_member("loop", "consumer", "weight", (6, 6), 1),
        make_member("out", "consumer", "weight", (2, 6), 1),
    )
    group = ChannelGroup("loop", 6, members, None, (np.arange(6),))
    plan = arrange_plan([group], "random")
    order = plan.groups[0].order
    np.testing.assert_array_equal(
        transform(plan, weights)["loop"], weights["loop"][np.ix_(order, order)]
    )
    merged = reorganize_plan(group, weights, Recipe.comparison("random"))
    result = transform(merged, weights)
    kept = np.ix_(merged.survivors, merged.survivors)
    np.testing.assert_array_equal(result["loop"][kept], weights["loop"][kept])
    assert (result["loop"][:, merged.new] == 0).all()


def test_tied_rows_move_once(make_member):
    weights = {"table": np.random.default_rng(0).normal(size=(5, 6))}
    made = make_member("table", "producer", "weight", (5, 6), 1)
    read = make_member("table", "consumer", "weight", (5, 6), 1)
    group = ChannelGroup("table", 6, (made, read, made), None, (np.arange(6),))
    plan = arrange_plan([group], "random")
    moved = transform(plan, weights)["table"]
    np.testing.assert_array_equal(moved, weights["table"][:, plan.groups[0].order])
    with pytest.raises(ValueError, match="both makes and reads"):
        reorganize_plan(group, weights, Recipe.comparison("random"))
    shifted = replace(read, positions=np.roll(read.positions, 1, axis=0))
    with pytest.raises(ValueError, match="several channels"):
        transform(arrange_plan([replace(group, members=(made, shifted))], "random"), weights)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_merging_keeps_the_type(network, dtype):
    weights = {name: value.astype(dtype) for name, value in network.weights.items()}
    plan = reorganize(network)
    result = transform(plan, weights)
    wide = transform(plan, {name: value.astype(np.float64) for name, value in weights.items()})
    for name in result:
        assert result[name].dtype == dtype
        np.testing.assert_array_equal(result[name], wide[name].astype(dtype))


def test_optimizer_state_merges_linearly(network):
    plan = reorganize(network)
    state = {name: network.weights[name].copy() for name in ("first", "second", "scale")}
    result = transform(plan, state, state="linear")
    np.testing.assert_allclose(result["first"], plan.A @ state["first"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result["second"], state["second"] @ plan.B.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result["scale"], plan.A @ state["scale"], rtol=1e-5)
    assert (result["first"][plan.new] == 0).all()
    assert (result["scale"][plan.new] == 0).all()
    assert list(result) == ["first", "scale", "second"]
    order = arrange_plan([network.group], "random")
    moved = transform(order, state, state=True)
    np.testing.assert_array_equal(moved["scale"], state["scale"][order.groups[0].order])


def broken(name, change):
    def spoil(weights):
        weights[name] = change(weights[name])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("second"), "the weight 'second'.*made for this model"),
        (broken("second", lambda v: v.T.copy()), r"'second' of shape \(5, 12\).*got \(12, 5\)"),
        (broken("var", lambda v: v[:11].copy()), "'var' of shape"),
        (broken("second", lambda v: v.astype(np.int8)), "'second', whose values are int8"),
        (broken("second", lambda v: v.astype(np.complex64)), "values are complex64"),
        (broken("second", lambda v: np.full(v.shape, 3e4, np.float16)), "overflows float16"),
        (lambda w: w["second"].setflags(write=False), "'second', got a read-only one"),
        (broken("second", lambda v: v.tolist()), "'second', got list"),
    ],
)
def test_refused_inputs_change_nothing(network, spoil, message):
    plan = reorganize(network, Recipe(ratio=0.1))
    spoil(network.weights)
    before = {name: np.array(value) for name, value in network.weights.items()}
    with pytest.raises(ValueError, match=message):
        apply(plan, network.weights)
    after = {name: np.array(value) for name, value in network.weights.items()}
    assert same_bytes(before, after)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": np.eye(11)}, "finite A and B"),
        ({"B": np.full((12, 12), np.nan)}, "finite A and B"),
        ({"new": np.array([12])}, "new places from 0 to 11"),
        ({"kind": "arrange"}, "a permutation of 12"),
    ],
)
def test_damaged_plans_are_refused(network, changes, message):
    plan = replace(reorganize(network), **changes)
    with pytest.raises(ValueError, match=message):
        transform(plan, network.weights)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.arange(11)[:, None], "rows of 12 channels"),
        (np.arange(1, 13)[:, None], "positions from 0 to 11"),
        (np.zeros((12, 1), int), "a row in two"),
    ],
)
def test_damaged_members_are_refused(network, positions, message):
    plan = arrange_plan([network.group], "random").groups[0]
    spoiled = replace(plan.members[0], positions=positions)
    with pytest.raises(ValueError, match=message):
        transform(replace(plan, members=(spoiled, *plan.members[1:])), network.weights)


def test_transform_writes_nothing(network):
    before = copied(network.weights)
    result = transform(reorganize(network), network.weights)
    assert same_bytes(network.weights, before)
    assert not any(np.shares_memory(result[name], network.weights[name]) for name in result)
    identity = arrange_plan([network.group], {"first": np.arange(12)})
    result = transform(identity, network.weights)
    assert not any(np.shares_memory(result[name], network.weights[name]) for name in result)
    with pytest.raises(ValueError, match="state to be"):
        transform(identity, network.weights, state="square")
