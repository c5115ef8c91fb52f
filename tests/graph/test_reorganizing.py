"""The procedure on a network of numpy arrays: exactness, cost, honest figures, all or nothing."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from rejuvenet.graph import reorganizing, side_by_side
from rejuvenet.graph.change.least_squares import held_out
from rejuvenet.graph.plan.recipe import Recipe
from rejuvenet.graph.reorganizing import reorganize

sys.path.insert(0, str(Path(__file__).parent))
from numpy_network import Lists, NumpyNetwork

N_BATCHES, N = 4, 20


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    return Lists([(rng.normal(size=(N, 3, 3, 3)), rng.integers(0, 3, N)) for _ in range(N_BATCHES)])


def outputs(network, data):
    return np.concatenate([network.run(x, {}, outputs=True)[0] for x, _ in data.batches])


def with_copies(network, layer, share=0.5):
    """Half of the channels of a layer are copies of the others; what reads them is not."""
    o = len(network.weights[f"{layer}.weight"])
    kept = int(share * o)
    for name, values in network.weights.items():
        if name.startswith(f"{layer}."):
            values[kept:] = values[: o - kept]
    return network


@pytest.mark.parametrize("normalized", [True, False])
def test_copies_in_every_layer_merge_exactly(data, normalized):
    network = NumpyNetwork(normalized=normalized)
    for layer in (0, 1):
        with_copies(network, layer)
    before = outputs(network, data)
    report = reorganize(network, data, "all", Recipe.preserving(ratio=0.5)).report
    silent = 2 if normalized else 0  # a pair of the second layer
    freed = [(group.new, group.dropped) for group in report.groups]
    assert freed == [(4, 0), (6 + silent // 2, silent)]
    np.testing.assert_allclose(outputs(network, data), before, rtol=1e-9, atol=1e-9)
    assert report.output_change < 1e-9


@pytest.mark.parametrize(("layers", "runs"), [("last", 5), ("all", 5)])
def test_runs_do_not_grow_with_the_number_of_groups(data, layers, runs):
    network = NumpyNetwork((3, 8, 8, 8, 8, 8, 8, 4))
    report = reorganize(network, data, layers, Recipe.preserving(ratio=0.5)).report
    assert network.runs == report.passes * N * N_BATCHES
    assert report.passes == runs


def test_memory_does_not_grow_with_the_number_of_groups():
    """Of activations sums are kept, so that a large batch of a deep network has room."""

    class Weighed(NumpyNetwork):
        kept = ()

        def run(self, *arguments, **options):
            found = super().run(*arguments, **options)
            self.kept = (*self.kept, tracemalloc.get_traced_memory()[0])
            return found

    rng = np.random.default_rng(2)
    batch = rng.normal(size=(40, 3, 16, 16))
    network = Weighed((3, *[16] * 8, 1), extent=16)
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        reorganize(network, Lists([(batch, np.arange(40) % 4)]), "all", Recipe.preserving())
    finally:
        tracemalloc.stop()
    one_group = 40 * 16 * 16 * 16 * 8
    assert network.kept[0] - start < 2 * one_group  # after the look


def test_the_refit_keeps_more_than_sums_alone(data):
    change = {}
    for outgoing in ("least_squares", "sum"):
        network = NumpyNetwork((3, 16, 16, 16, 4))
        recipe = Recipe.preserving(ratio=0.4, outgoing=outgoing)
        change[outgoing] = reorganize(network, data, "last", recipe).report.output_change
    assert change["least_squares"] < 0.5 * change["sum"]


def test_a_refit_of_products_makes_up_for_the_layers_before():
    rng = np.random.default_rng(1)
    data = Lists([(rng.normal(size=(200, 3, 3, 3)), np.arange(200) % 4) for _ in range(4)])
    change = {}
    for refit in ("groups", "products"):
        network = NumpyNetwork((3, 12, 12, 12, 12, 4))
        recipe = Recipe.preserving(ratio=0.6, refit=refit)
        report = reorganize(network, data, "all", recipe).report
        change[refit] = report.output_change
        assert network.runs == report.passes * 800
    assert report.passes == 3 + 2, "one before and one after the change, whatever the depth"
    assert change["products"] < 0.8 * change["groups"]
    for group in report.plan.groups:
        (consumer,) = (m for m in group.members if m.kind == "consumer")
        new = consumer.rows(network.weights[consumer.weight])[consumer.positions[group.new]]
        assert len(new)
        assert not new.any()


@pytest.mark.parametrize("share", [0, 0.25])
def test_runs_that_keep_too_much_begin_anew_or_are_left_out(monkeypatch, share):
    rng = np.random.default_rng(1)
    data = Lists([(rng.normal(size=(200, 3, 3, 3)), np.arange(200) % 4) for _ in range(4)])
    recipe = Recipe.preserving(ratio=0.6)
    found = {}
    for kept in (1 << 30, share * 40 * 2**20):
        for most in (8, 100):
            monkeypatch.setattr(side_by_side, "KEPT_BYTES", kept)
            monkeypatch.setattr(reorganizing, "MOST_PASSES", most)
            network = NumpyNetwork((3, *8 * [12], 4))
            found[kept, most] = network, reorganize(network, data, "all", recipe).report
    (whole, report), (_, other), (few, bounded), (again, unbounded) = found.values()
    assert report.passes == other.passes == 3 + 2
    assert bounded.passes <= 8 < unbounded.passes
    for name, value in whole.weights.items():  # by more runs, but the same
        np.testing.assert_allclose(again.weights[name], value, rtol=1e-9, atol=1e-12)
    assert any(not np.array_equal(few.weights[name], whole.weights[name]) for name in few.weights)
    groups = reorganize(NumpyNetwork((3, *8 * [12], 4)), data, "all", recipe.fitting("groups"))
    assert bounded.output_change < groups.report.output_change


def test_the_change_is_measured_on_samples_that_no_refit_used():
    """Few samples, many channels: what the refit has seen, it can reproduce."""
    rng = np.random.default_rng(2)
    few = Lists([(rng.normal(size=(40, 3, 1, 1)), np.arange(40) % 2)])
    many = Lists([(rng.normal(size=(500, 3, 1, 1)), np.arange(500) % 2)])
    network = NumpyNetwork((3, 60, 60, 4), extent=1)
    before = outputs(network, many)
    with pytest.warns(UserWarning, match="give 250 samples or more"):
        report = reorganize(network, few, "last", Recipe.preserving(ratio=0.5)).report
    change = np.sqrt(np.mean((outputs(network, many) - before) ** 2) / np.mean(before**2))
    assert 0.5 < report.output_change / change < 2.0
    assert report.held_out == 8
    assert "8 samples that no refit used" in report.outputs()


def test_the_largest_change_is_of_the_same_samples(data):
    network = NumpyNetwork()
    before = [network.run(x, {}, outputs=True)[0] for x, _ in data.batches]
    report = reorganize(network, data, "last", Recipe.preserving(ratio=0.5)).report
    after = [network.run(x, {}, outputs=True)[0] for x, _ in data.batches]
    apart = held_out(0, N)
    change = [np.abs(a - b)[apart].max() for a, b in zip(after, before, strict=True)]
    assert report.largest_change == pytest.approx(max(change))


class Score(NumpyNetwork):
    """One number without an axis for a whole batch."""

    def run(self, inputs, watch, outputs=False, statistics=()):
        found = super().run(inputs, watch, outputs, statistics)
        return [np.asarray(np.square(values).mean()) for values in found]


def test_the_change_of_an_output_without_axes_is_that_of_all_samples(data):
    network = Score()
    before = [network.run(x, {}, outputs=True)[0] for x, _ in data.batches]
    report = reorganize(network, data, "last", Recipe.preserving(ratio=0.5)).report
    after = [network.run(x, {}, outputs=True)[0] for x, _ in data.batches]
    change = np.linalg.norm(np.subtract(after, before)) / np.linalg.norm(before)
    assert report.output_change == pytest.approx(change)
    assert report.held_out == 0
    assert report.agreement is None


@pytest.mark.parametrize("normalized", [True, False])
def test_a_budget_of_change_puts_groups_back(data, normalized):
    network = NumpyNetwork((3, 16, 16, 16, 4), normalized)
    given = dict(network.weights)
    report = reorganize(
        network, data, "all", Recipe.preserving(ratio=0.3), max_change=1e-12
    ).report
    assert not report.groups
    assert sum("budget" in reason for reason in report.skipped.values()) == 3
    for name, values in given.items():
        np.testing.assert_array_equal(network.weights[name], values)


def test_part_of_a_budget_keeps_part_of_the_groups(data):
    network = NumpyNetwork((3, 16, 16, 16, 4))
    with_copies(network, 1)
    report = reorganize(network, data, "all", Recipe.preserving(ratio=0.5), max_change=1e-6).report
    assert [group.group for group in report.groups] == ["1.weight"]
    assert report.output_change < 1e-6


def test_protected_channels_stay_as_and_where_they_are(data):
    network = NumpyNetwork((3, 16, 16, 16, 4))
    given = {name: values.copy() for name, values in network.weights.items()}
    protected = {"0.weight": [1, 4, 5], "1.weight": range(16)}
    report = reorganize(network, data, "all", Recipe(ratio=0.5), protected=protected).report
    assert {group.group: group.new for group in report.groups} == {"0.weight": 7, "2.weight": 8}
    assert report.skipped["1.weight"] == "its channels are protected"
    assert not set(report.plan.groups[0].new) & {1, 4, 5}
    for name, axis in (("0.weight", 0), ("1.weight", 1)):
        now, before = network.weights[name], given[name]
        np.testing.assert_array_equal(now.take([1, 4, 5], axis), before.take([1, 4, 5], axis))
        assert not np.array_equal(now, before)


def test_layers_and_patterns_name_what_is_protected(data):
    network = NumpyNetwork((3, 16, 16, 16, 4))
    protected = {"[01]*": [1], "1.weight": [4, 5], "2": np.arange(16)}
    report = reorganize(network, data, "all", Recipe(ratio=0.5), protected=protected).report
    assert {group.group: group.new for group in report.groups} == {"0.weight": 7, "1.weight": 7}
    for plan, stay in zip(report.plan.groups, ({1}, {1, 4, 5}), strict=True):
        assert not stay & {*plan.new}


@pytest.mark.parametrize(
    ("protected", "said"),
    [
        ({"0.wieght": [0]}, "did you mean '0.weight'"),
        ({"nothing*": [0]}, "no channel group"),
        ({"0.weight": [0], "1.weight": [12]}, r"from 0 to 11 .* '1.weight' .*, got \[12\]"),
        ({"0": [-1]}, r"from 0 to 7 .* '0.weight' .*, got \[-1\]"),
        ({"0": [True, False]}, "expected numbers"),
        ({"0": 3}, "got 3"),
    ],
)
def test_protected_channels_that_are_not_there_are_refused(data, protected, said):
    network = NumpyNetwork()
    with pytest.raises(ValueError, match=said):
        reorganize(network, data, "0.weight", protected=protected)
    assert network.runs == 0


def test_nothing_freed_costs_one_look(data):
    network = NumpyNetwork()
    recipe = Recipe.preserving(ratio="redundant", tolerance=0.01, dormant=0.0)
    report = reorganize(network, data, ["0.weight"], recipe).report
    assert not any(group.new for group in report.groups)
    assert report.passes == 1


def test_a_ratio_for_a_layer_that_is_not_there_is_refused(data):
    recipe = Recipe.preserving(ratio={"conv9": 0.5, "*": 1.0})
    with pytest.raises(ValueError, match="'conv9'"):
        reorganize(NumpyNetwork(), data, "all", recipe)


def test_pseudo_classes_take_the_place_of_labels(data):
    network = NumpyNetwork()
    unlabelled = Lists([(x, None) for x, _ in data.batches])
    report = reorganize(
        network, unlabelled, "last", Recipe.preserving(ratio=0.5), pseudo_classes=4
    ).report
    assert report.groups[0].before.features == 4 * 9
    assert report.passes == 6


@pytest.mark.parametrize("classes", [None, 3_000_000_000])
def test_labels_that_are_large_numbers_take_no_memory(data, classes):
    network = NumpyNetwork()
    first = 0 if classes else 3_000_000_000
    numbered = Lists([(x, labels + first) for x, labels in data.batches])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"has room for|are allowed"):
        reorganize(network, numbered, "last", classes=classes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_auto_chooses_the_groups_that_use_the_least(data):
    network = with_copies(NumpyNetwork((3, 12, 12, 12, 4)), 1, share=0.25)
    report = reorganize(network, data, "auto").report
    assert "1.weight" in [group.group for group in report.groups]
