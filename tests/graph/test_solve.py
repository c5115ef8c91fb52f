"""Channel groups of small networks whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from rejuvenet.graph import ChannelGroup, find_groups
from rejuvenet.graph.find.components import Component, occurrence, reshape_blocks, reshaped
from rejuvenet.graph.find.nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Gather,
    Graph,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Transpose,
    uniform_axes,
)


class Net(Graph):
    """A graph with shorthands; the image ``x`` has three channels."""

    def __init__(self):
        super().__init__()
        self.inputs.append(self.add_tensor("x", (1, 3, 8, 8)))

    def tensor(self, shape):
        return self.add_tensor(f"t{len(self.shapes)}", shape)

    def weight(self, name, *shape):
        self.weights[name] = name
        return self.add_tensor(name, shape)

    def conv(self, x, name, o, groups=1):
        n, c, *space = self.shapes[x]
        if name not in self.shapes:
            self.weight(name, o, c // groups, *(3 for _ in space))
        out = self.tensor((n, o, *space))
        self.add_convolution(x, name, out, groups)
        return out

    def put(self, kind, x, shape, *args, **named):
        out = self.tensor(shape)
        self.nodes.append(kind(x, out, *args, **named))
        return out

    def group(self, name) -> ChannelGroup:
        return next(g for g in find_groups(self) if g.name == name)


def members(group, kind):
    return [(m.weight, m.positions.shape[1]) for m in group.members if m.kind == kind]


def test_chain_of_convolution_normalization_convolution():
    net = Net()
    a = net.conv("x", "first", 8)
    names = [net.weight(n, 8) for n in ("bias", "scale", "shift", "mean", "var")]
    b = net.put(PerChannel, (a, names[0]), (1, 8, 8, 8), 1, ("bias",))
    roles = ("scale", "shift", "running_mean", "running_var")
    c = net.put(PerChannel, (b, *names[1:]), (1, 8, 8, 8), 1, roles)
    net.outputs.append(net.conv(net.put(Elementwise, (c,), (1, 8, 8, 8)), "second", 4))
    group = net.group("first")
    assert members(group, "producer") == [("first", 1), ("bias", 1)]
    assert [m.role for m in group.per_channel] == list(roles)
    assert members(group, "consumer") == [("second", 1)]
    assert all(m.origin == "first" for m in group.members)
    assert [s.tolist() for s in group.exchangeable] == [list(range(8))]
    assert net.shapes[group.tap.tensor] == (1, 8, 8, 8)
    assert group.tap.axis == 1
    assert net.group("second").frozen == "reaches an output of the model"


def test_sums_tie_their_producers():
    net = Net()
    a, b = net.conv("x", "left", 6), net.conv("x", "right", 6)
    net.outputs.append(net.conv(net.put(Elementwise, (a, b), (1, 6, 8, 8)), "next", 2))
    assert members(net.group("left"), "producer") == [("left", 1), ("right", 1)]


def test_concatenation_keeps_groups_apart_and_shifts_the_consumer():
    net = Net()
    a, b = net.conv("x", "left", 4), net.conv("x", "right", 6)
    joined = net.put(Concat, (a, b), (1, 10, 8, 8), 1)
    net.outputs.append(net.conv(joined, "next", 2))
    left, right = net.group("left"), net.group("right")
    assert left.consumers[0].positions.ravel().tolist() == [0, 1, 2, 3]
    assert right.consumers[0].positions.ravel().tolist() == [4, 5, 6, 7, 8, 9]
    assert right.tap.index.tolist() == [4, 5, 6, 7, 8, 9]


def test_flatten_gives_every_channel_its_rows_of_the_linear_layer():
    net = Net()
    a = net.conv("x", "conv", 4)
    flat = net.put(Reshape, a, (1, 256))
    net.weight("linear", 5, 256)
    out = net.temporary((1, 5))
    net.nodes.append(Contraction((flat, "linear"), out, ("n", "i"), ("o", "i"), ("n", "o")))
    net.outputs.append(out)
    consumer = net.group("conv").consumers[0]
    assert np.array_equal(consumer.positions, np.arange(256).reshape(4, 64))
    assert net.shapes[net.group("conv").tap.tensor] == (1, 4, 8, 8)


def test_pooling_before_the_linear_layer_leaves_the_tap_spatial():
    net = Net()
    a = net.conv("x", "conv", 4)
    pooled = net.put(Reduce, a, (1, 4), (2, 3), False)
    net.weight("linear", 5, 4)
    out = net.temporary((1, 5))
    net.nodes.append(Contraction((pooled, "linear"), out, ("n", "i"), ("o", "i"), ("n", "o")))
    net.outputs.append(out)
    assert net.group("conv").tap.tensor == a


def test_grouped_convolution_exchanges_within_groups():
    net = Net()
    b = net.conv(net.conv("x", "first", 8), "grouped", 12, groups=2)
    net.outputs.append(net.conv(b, "last", 2))
    first, grouped = net.group("first"), net.group("grouped")
    assert [s.tolist() for s in first.exchangeable] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [s.tolist() for s in grouped.exchangeable] == [list(range(6)), list(range(6, 12))]
    consumer = first.consumers[0]
    assert consumer.view == (2, 6, 4, 3, 3)
    assert consumer.axes == (0, 2)


def test_depthwise_convolution_is_one_filter_for_each_channel():
    net = Net()
    b = net.conv(net.conv("x", "first", 8), "depthwise", 8, groups=8)
    net.outputs.append(net.conv(b, "last", 2))
    group = net.group("first")
    assert members(group, "per_channel") == [("depthwise", 1)]
    assert len(group.exchangeable[0]) == 8


def test_depthwise_multiplier_moves_all_copies_of_a_channel():
    net = Net()
    b = net.conv(net.conv("x", "first", 4), "depthwise", 8, groups=4)
    net.outputs.append(net.conv(b, "last", 2))
    group = net.group("first")
    assert members(group, "consumer") == [("last", 2)]
    assert group.members[1].positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_transposed_depthwise_multiplier_moves_its_rows_once():
    net = Net()
    a = net.conv("x", "first", 4)
    net.weight("up", 4, 2, 3, 3)
    b = net.tensor((1, 8, 8, 8))
    net.add_convolution(a, "up", b, groups=4, transposed=True)
    net.outputs.append(net.conv(b, "last", 2))
    group = net.group("first")
    assert [(m.weight, m.view, m.axes) for m in group.members if m.weight == "up"] == [
        ("up", (4, 2, 3, 3), (0,))
    ]
    assert group.consumers[0].positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_convolution_with_one_input_channel_is_not_depthwise():
    net = Net()
    one = net.conv("x", "to_one", 1)
    net.outputs.append(net.conv(net.conv(one, "wide", 8), "last", 2))
    group = net.group("wide")
    assert members(group, "producer") == [("wide", 1)]
    assert [s.tolist() for s in group.exchangeable] == [list(range(8))]


def test_a_single_selected_channel_keeps_its_place():
    net = Net()
    a = net.conv("x", "conv", 6)
    one = net.put(Gather, a, (1, 1, 8, 8), 1, np.array([2]))
    net.outputs += [net.put(Reshape, one, (1, 8, 8)), net.conv(a, "next", 2)]
    assert [s.tolist() for s in net.group("conv").exchangeable] == [[0, 1, 3, 4, 5]]


def test_a_reduced_subset_of_channels_keeps_its_members():
    net = Net()
    a = net.conv("x", "conv", 6)
    some = net.put(Gather, a, (1, 4, 8, 8), 1, np.arange(4))
    net.outputs += [net.put(Reduce, some, (1, 8, 8), (1,), False), net.conv(a, "next", 2)]
    assert [s.tolist() for s in net.group("conv").exchangeable] == [[0, 1, 2, 3], [4, 5]]


def test_a_channel_read_twice_is_not_one_that_is_read_once():
    net = Net()
    a = net.conv("x", "conv", 4)
    some = net.put(Gather, a, (1, 5, 8, 8), 1, np.array([0, 1, 2, 3, 0]))
    net.outputs += [net.put(Reduce, some, (1, 8, 8), (1,), False), net.conv(a, "next", 2)]
    assert [s.tolist() for s in net.group("conv").exchangeable] == [[1, 2, 3]]


def test_constant_tables_fix_the_order_and_uniform_constants_do_not():
    for uniform in (False, True):
        net = Net()
        a = net.conv("x", "conv", 4)
        net.add_tensor("table", (4, 1, 1))
        net.uniform["table"] = frozenset({0, 1, 2} if uniform else {1, 2})
        b = net.put(Elementwise, (a, "table"), (1, 4, 8, 8))
        net.outputs.append(net.conv(b, "next", 2))
        assert (net.group("conv").frozen is None) == uniform


def test_one_weight_used_twice_is_one_set_of_places():
    net = Net()
    a = net.conv(net.conv("x", "first", 4), "tied", 4)
    net.outputs.append(net.conv(net.conv(a, "tied", 4), "last", 2))
    group = net.group("first")
    kinds = [(m.weight, m.axes) for m in group.members]
    assert ("tied", (0,)) in kinds
    assert ("tied", (1,)) in kinds
    assert ("last", (1,)) in kinds


def test_heads_are_divided():
    net = Net()
    x = net.add_tensor("tokens", (1, 5, 8))
    net.inputs.append(x)
    parts = []
    for name in "qkv":
        net.weight(name, 8, 8)
        out = net.temporary((1, 5, 8))
        net.nodes.append(Contraction((x, name), out, ("n", "t", "i"), ("o", "i"), ("n", "t", "o")))
        split = net.put(Reshape, out, (1, 5, 2, 4))
        parts.append(net.put(Transpose, split, (1, 2, 5, 4), (0, 2, 1, 3)))
    scores, mixed = net.temporary((1, 2, 5, 5)), net.temporary((1, 2, 5, 4))
    net.nodes += [
        Contraction((parts[0], parts[1]), scores, tuple("bhtd"), tuple("bhsd"), tuple("bhts")),
        Contraction((scores, parts[2]), mixed, tuple("bhts"), tuple("bhsd"), tuple("bhtd")),
    ]
    merged = net.put(Reshape, net.put(Transpose, mixed, (1, 5, 2, 4), (0, 2, 1, 3)), (1, 5, 8))
    net.weight("out", 3, 8)
    out = net.temporary((1, 5, 3))
    net.nodes.append(
        Contraction((merged, "out"), out, ("n", "t", "i"), ("o", "i"), ("n", "t", "o"))
    )
    net.outputs.append(out)
    heads = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert members(net.group("q"), "producer") == [("q", 1), ("k", 1)]
    for name in "qv":
        assert [s.tolist() for s in net.group(name).exchangeable] == heads


def test_relative_position_tables_are_divided_by_the_head():
    """A table ``(heads, positions)`` added to the scores fixes the positions, not the channels."""
    net = Net()
    a = net.conv("x", "conv", 8)
    split = net.put(Reshape, a, (1, 2, 4, 64))
    net.weight("table", 2, 1, 64)
    biased = net.put(Elementwise, (split, "table"), (1, 2, 4, 64), "add")
    net.outputs.append(net.conv(net.put(Reshape, biased, (1, 8, 8, 8)), "next", 2))
    group = net.group("conv")
    assert group.frozen is None or "order" in group.frozen


def test_padded_channels_are_exchangeable_with_each_other():
    net = Net()
    a, b = net.conv("x", "narrow", 4), net.conv("x", "wide", 8)
    padded = net.put(Pad, a, (1, 8, 8, 8), (0, 2, 0, 0), (0, 2, 0, 0))
    total = net.put(Elementwise, (b, padded), (1, 8, 8, 8), "add")
    net.outputs.append(net.conv(total, "next", 2))
    wide = net.group("wide")
    assert wide.producers[0].positions.ravel().tolist() == [0, 1, 6, 7]
    assert [s.tolist() for s in wide.exchangeable] == [[0, 1, 2, 3]]
    assert [s.tolist() for s in net.group("narrow").exchangeable] == [[0, 1, 2, 3]]


def test_channels_read_by_position_are_frozen_with_a_reason():
    net = Net()
    a = net.conv("x", "conv", 4)
    mixed = net.put(Positional, a, (1, 4, 8, 8), (1,))
    net.outputs.append(net.conv(mixed, "next", 2))
    assert net.group("conv").frozen == "its axis is read position by position"


def test_unknown_operators_freeze_with_their_reason():
    net = Net()
    a = net.conv("x", "conv", 4)
    out = net.temporary((1, 4, 8, 8))
    net.nodes.append(Opaque((a,), (out,), "the operator fft is not understood"))
    net.outputs.append(net.conv(out, "next", 2))
    assert net.group("conv").frozen == "the operator fft is not understood"


def test_products_and_reductions_make_merging_approximate():
    net = Net()
    a = net.conv("x", "conv", 4)
    b = net.conv("x", "gate", 4)
    product = net.put(Elementwise, (a, b), (1, 4, 8, 8), "mul")
    net.outputs.append(net.conv(product, "next", 2))
    assert net.group("conv").exact_merge == "multiplied by another tensor"


def test_parts_of_one_producer_with_different_consumers_are_named_by_their_rows():
    net = Net()
    a = net.conv("x", "conv", 6)
    half = [net.put(Gather, a, (1, 3, 8, 8), 1, np.arange(3) + 3 * i) for i in range(2)]
    net.outputs += [net.conv(half[0], "one", 2), net.conv(half[1], "two", 2)]
    names = {g.name for g in find_groups(net)}
    assert {"conv[0:3]", "conv[3:6]"} <= names


def test_expanded_channels_move_with_what_they_copy():
    net = Net()
    a = net.put(Reshape, net.conv("x", "conv", 4), (1, 4, 1, 8, 8))
    wide = net.put(Expand, a, (1, 4, 2, 8, 8))
    net.outputs.append(net.conv(net.put(Reshape, wide, (1, 8, 8, 8)), "next", 2))
    group = net.group("conv")
    assert group.consumers[0].positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("before", "after"), [((2, 12), (2, 3, 4)), ((2, 3, 4), (24,)), ((1, 6, 1), (2, 1, 3))]
)
def test_labels_are_reshaped_like_data(before, after):
    size = int(np.prod(before))
    joint = Component(tuple(range(len(before))), np.arange(size).reshape(before)).simplified()
    result = reshaped(joint, before, after)
    kept = [n for n in after if n != 1]
    assert np.array_equal(result.atoms, np.arange(size).reshape(kept))


def test_flattening_keeps_positions_apart_and_unflattening_forgets_them():
    channel = Component((1,), np.array([7, 8]))
    flat = reshaped(channel, (1, 2, 3), (1, 6))
    assert flat.atoms.tolist() == [7, 7, 7, 8, 8, 8]
    assert flat.keys.tolist() == [0, 1, 2, 0, 1, 2]
    back = reshaped(flat, (1, 6), (1, 2, 3))
    assert back.axes == (1,)
    assert back.atoms.tolist() == [7, 8]
    assert back.keys is None


def test_small_functions_of_labels():
    assert reshape_blocks((4, 6), (2, 2, 6)) == [((0,), (0, 1)), ((1,), (2,))]
    assert occurrence(np.array([[1, 1], [2, 1]])).tolist() == [[0, 1], [0, 2]]
    assert uniform_axes(np.zeros((2, 3))) == frozenset({0, 1})


def test_the_tap_of_a_hidden_layer_is_what_the_next_layer_reads():
    net = Net()
    flat = net.put(Reshape, "x", (1, 192))
    for name, shape in {"a": (6, 192), "b": (2, 6), "bias": (6,)}.items():
        net.weight(name, *shape)
    hidden, out = net.temporary((1, 6)), net.temporary((1, 2))
    net.nodes.append(Contraction((flat, "a"), hidden, ("n", "i"), ("o", "i"), ("n", "o")))
    biased = net.put(PerChannel, (hidden, "bias"), (1, 6), 1, ("bias",))
    active = net.add_tensor("active", (1, 6))
    net.nodes += [
        Elementwise((biased,), active),
        Contraction((active, "b"), out, ("n", "i"), ("o", "i"), ("n", "o")),
    ]
    net.outputs.append(out)
    assert net.group("a").tap.tensor == "active"


def test_several_rows_of_a_channel_correspond_by_what_they_meet_not_by_their_order():
    """A cyclic shift puts the second copy of the last channel before the first of the others."""
    net = Net()
    a = net.conv("x", "conv", 4)
    both = net.put(Concat, (a, a), (1, 8, 8, 8), 1)
    tied = net.conv(net.conv(both, "tied", 8), "tied", 8)
    rolled = net.put(Gather, tied, (1, 8, 8, 8), 1, np.roll(np.arange(8), 1))
    net.outputs.append(net.conv(rolled, "last", 2))
    last = next(m for m in net.group("conv").members if m.weight == "last")
    assert last.positions.tolist() == [[1, 5], [2, 6], [3, 7], [4, 0]]


def test_channels_tied_in_a_cycle_stay():
    """``x + shuffle(x)``: exchanging two cycles would need them in step."""
    net = Net()
    a = net.conv("x", "conv", 8)
    shuffled = net.put(Gather, a, (1, 8, 8, 8), 1, np.arange(8).reshape(2, 4).T.ravel())
    total = net.put(Elementwise, (a, shuffled), (1, 8, 8, 8), "add")
    net.outputs.append(net.conv(total, "next", 2))
    moved = [g.producers[0].positions[s].ravel().tolist()
             for g in find_groups(net) for s in g.exchangeable]  # fmt: skip
    assert moved == [[0, 7]]


def test_copies_of_a_channel_in_different_groups_correspond_by_their_group():
    """Channel 0 has its first copy in the first group and channel 1 in the second."""
    net = Net()
    a = net.conv("x", "conv", 4)
    both = net.put(Concat, (a, a), (1, 8, 8, 8), 1)
    mixed = net.put(Gather, both, (1, 8, 8, 8), 1, np.array([0, 5, 2, 6, 4, 1, 3, 7]))
    net.outputs.append(net.conv(net.conv(mixed, "grouped", 4, 2), "last", 2))
    assert net.group("conv").exchangeable == ()
    assert [s.tolist() for s in net.group("grouped").exchangeable] == [[0, 1], [2, 3]]


def test_vector_that_meets_a_flattened_weight_moves_with_its_channels():
    """The power iteration of a spectral norm: ``W.flatten(1) @ v`` scales the weight."""
    net = Net()
    a = net.conv("x", "conv", 6)
    weight, v = net.weight("weight", 2, 6, 3, 3), net.weight("v", 54)
    flat = net.put(Reshape, weight, (2, 54))
    sigma = net.tensor((2,))
    net.nodes.append(Contraction((flat, v), sigma, ("o", "p"), ("p",), ("o",)))
    norm = net.put(Reduce, sigma, (), (0,), False)
    normal = net.put(Elementwise, (weight, norm), (2, 6, 3, 3))
    out = net.tensor((1, 2, 8, 8))
    net.add_convolution(a, normal, out)
    net.outputs.append(out)
    group = net.group("conv")
    assert [s.tolist() for s in group.exchangeable] == [list(range(6))]
    rows = next(m for m in group.members if m.weight == "v").positions
    assert rows.tolist() == np.arange(54).reshape(6, 9).tolist()
