"""Making, printing, saving and refusing plans."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from rejuvenet.graph import Plan, Recipe, Report, arrange_plan, refit, reorganize_plan, transform
from rejuvenet.graph.change import least_squares
from rejuvenet.graph.change.least_squares import SecondMoments
from rejuvenet.graph.plan.plan import GroupPlan
from rejuvenet.graph.report import GroupReport

RECIPES = [
    Recipe.preserving(),
    Recipe.paper(),
    Recipe(assign="mode", outgoing="sum"),
    Recipe(merge="medoid", placement="in_place"),
    Recipe(method="kmeans"),
    Recipe.comparison("l1"),
    Recipe.comparison("l2"),
    Recipe.comparison("random"),
    Recipe.comparison("redo"),
    Recipe.comparison("repr"),
    Recipe(init="null_space"),
]


def reorganize(network, recipe=None, **changes):
    group = replace(network.group, **changes)
    return reorganize_plan(group, network.weights, recipe, network.means())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.method}-{r.assign}-{r.merge}")
def test_matrices_of_every_recipe(network, recipe):
    plan = reorganize(network, recipe)
    survivors = plan.survivors
    assert plan.nodes == 6
    assert len(survivors) == plan.occupied <= 6
    np.testing.assert_array_equal(np.union1d(survivors, plan.new), np.arange(12))
    assert not plan.A[plan.new].any()
    assert not plan.B[plan.new].any()
    np.testing.assert_allclose(plan.A[survivors].sum(axis=1), 1.0)
    if recipe.method in ("sofm", "kmeans"):
        total = plan.B.sum(axis=0) if recipe.outgoing != "mean" else plan.B[survivors].sum(axis=1)
        np.testing.assert_allclose(total, 1.0)
    assert plan.capacity.channels == 12
    assert 1 <= plan.capacity.effective_rank <= 12


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.method}-{r.assign}-{r.merge}")
def test_one_seed_one_plan(network, recipe):
    first, second = reorganize(network, recipe), reorganize(network, recipe)
    np.testing.assert_array_equal(first.A, second.A)
    np.testing.assert_array_equal(first.B, second.B)
    one, two = transform(first, network.weights), transform(second, network.weights)
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    other = transform(reorganize(network, replace(recipe, seed=1)), network.weights)
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)


def test_plans_do_not_depend_on_the_thread(network):
    expected = transform(reorganize(network), network.weights)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(transform(reorganize(network), network.weights))
    )
    np.random.seed(7)  # noqa: NPY002 the global state must not matter
    thread.start()
    thread.join()
    assert all(found[0][name].tobytes() == expected[name].tobytes() for name in expected)


def test_comparison_methods_keep_the_strongest(network):
    norms = np.linalg.norm(network.weights["first"], axis=1)
    scales = np.abs(network.weights["scale"])
    for method, score in (("l2", norms), ("l1", scales)):
        plan = reorganize(network, Recipe.comparison(method))
        np.testing.assert_array_equal(plan.survivors, np.sort(np.argsort(-score)[:6]))
        np.testing.assert_array_equal(plan.A, np.diag(np.isin(np.arange(12), plan.survivors)))
        np.testing.assert_array_equal(plan.A, plan.B)
    drawn = {tuple(reorganize(network, Recipe.comparison("random", seed=s)).new) for s in range(5)}
    assert len(drawn) == 5


def test_in_place_survivors_stay_where_a_member_was(network):
    plan = reorganize(network, Recipe(placement="in_place"))
    for p in plan.survivors:
        assert plan.A[p, p] > 0
    medoid = reorganize(network, Recipe(placement="in_place", merge="medoid"))
    np.testing.assert_array_equal(medoid.A, np.diag(np.isin(np.arange(12), medoid.survivors)))
    on_map = reorganize(network, Recipe())
    assert on_map.survivors.max() < 6


def test_every_exchangeable_set_is_mapped_on_its_own(network):
    sets = (np.array([0, 2, 4, 6]), np.array([1, 3, 5]), np.array([7, 8, 9, 10]))
    for recipe in RECIPES:
        plan = reorganize(network, recipe, exchangeable=sets)
        label = np.full(12, -1)
        for number, indices in enumerate(sets):
            label[indices] = number
        for matrix in (plan.A, plan.B):
            p, j = np.nonzero(matrix)
            np.testing.assert_array_equal(label[p], label[j])
            assert matrix[11, 11] == 1.0  # in no set: stays
        assert plan.nodes == 2 + 2 + 2
        assert 11 not in plan.survivors
        assert 11 not in plan.new


def test_ratio_keeps_at_least_one_node(network):
    plan = reorganize(network, Recipe(ratio=0.01))
    assert plan.nodes == 1
    np.testing.assert_allclose(plan.A[0], 1 / 12)
    assert plan.merged == 12


def test_layer_scope_changes_one_producer(network, make_member):
    last = make_member("last", "producer", "weight", (12, 4), 0, origin="last")
    before = make_member("before", "consumer", "weight", (3, 12), 1, origin="first")
    members = (*network.group.members[:6], before, last, network.group.members[6])
    network.weights |= {"last": np.ones((12, 4), "f4"), "before": np.ones((3, 12), "f4")}
    plan = reorganize(network, Recipe(scope="layer"), members=members)
    assert plan.weights == ("last", "second")
    assert "only last" in plan.note
    assert set(reorganize(network, members=members).weights) == set(network.weights)
    group = replace(network.group, members=members)
    chosen = reorganize_plan(
        group, network.weights, Recipe(scope="layer"), network.means(), layer="first"
    )
    assert "last" not in chosen.weights
    assert "bias" in chosen.weights
    with pytest.raises(ValueError, match=r"producer of group 'first' .*'other'"):
        reorganize_plan(
            group, network.weights, Recipe(scope="layer"), network.means(), layer="other"
        )


def test_orders_stay_within_their_sets(network):
    sets = (np.array([0, 2, 4, 6, 8]), np.array([1, 3, 5, 7]))
    group = replace(network.group, exchangeable=sets)
    for order in ("random", "sofm"):
        plan = arrange_plan([group], order, {"first": network.means()}, seed=3).groups[0]
        for indices in sets:
            np.testing.assert_array_equal(np.sort(plan.order[indices]), indices)
        np.testing.assert_array_equal(plan.order[9:], [9, 10, 11])
        assert plan.moved > 0
    swapped = np.arange(12)
    swapped[[0, 1]] = [1, 0]
    with pytest.raises(ValueError, match="channels 0 and 1 of group 'first'"):
        arrange_plan([group], {"first": swapped})
    swapped = np.arange(12)
    swapped[[10, 11]] = [11, 10]
    with pytest.raises(ValueError, match="channels 10 and 11"):
        arrange_plan([group], {"first": swapped})


def test_groups_that_cannot_move_are_skipped_or_refused(network):
    frozen = replace(network.group, name="frozen", frozen="reaches an output", exchangeable=())
    untapped = replace(network.group, name="untapped", tap=None)
    groups = [network.group, frozen, untapped]
    plan = arrange_plan(groups, "sofm", {"first": network.means()})
    assert [p.group for p in plan.groups] == ["first"]
    assert plan.skipped["frozen"] == "reaches an output"
    assert "no tensor holds its channels" in plan.skipped["untapped"]
    assert "skipped frozen: reaches an output" in str(plan)
    assert len(arrange_plan(groups, "random").groups) == 2
    with pytest.raises(ValueError, match="'frozen' cannot be arranged: reaches an output"):
        arrange_plan(groups, {"frozen": np.arange(12)})
    with pytest.raises(ValueError, match="cannot be reorganized: reaches an output"):
        reorganize(network, frozen="reaches an output")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: arrange_plan([n.group], "sofm"), "class means of group 'first'"),
        (lambda n: arrange_plan([n.group], "map"), "order to be 'sofm'.*got 'map'"),
        (lambda n: arrange_plan([n.group], {"other": np.arange(12)}), "got 'other'"),
        (lambda n: arrange_plan([n.group], {"first": np.zeros(12, int)}), "a permutation"),
        (lambda n: arrange_plan([n.group], {"first": np.arange(11)}), "a permutation"),
        (lambda n: reorganize_plan(n.group, n.weights), "class means of group 'first'"),
        (lambda n: reorganize_plan(n.group, {}, Recipe(), n.means()), "the weight 'first'"),
        (lambda n: reorganize_plan(n.group, {}, Recipe.comparison("l2")), "the weight 'first'"),
        (lambda n: reorganize(n, Recipe.comparison("l1"), members=n.group.producers), "'l1'"),
        (lambda n: reorganize(n, channels=13), "13 channels for group 'first', got 12"),
    ],
)
def test_refusals(network, call, message):
    with pytest.raises(ValueError, match=message):
        call(network)


def test_save_and_load(network, tmp_path):
    path = tmp_path / "plan.npz"
    for plan in (
        Plan([reorganize(network)], Recipe.preserving(), {"stem": "reaches an output"}),
        arrange_plan([network.group], "random"),
        Plan([]),
    ):
        plan.save(path)
        loaded = Plan.load(path)
        assert loaded.to_dict() == plan.to_dict()
        assert str(loaded) == str(plan)
        assert loaded.recipe == plan.recipe
        before, after = (transform(p, network.weights) for p in (plan, loaded))
        assert list(before) == list(after)
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)
        json.dumps(plan.to_dict())
    assert os.listdir(tmp_path) == ["plan.npz"]


def test_damaged_files_are_refused(network, tmp_path):
    path = tmp_path / "plan.npz"
    Plan([reorganize(network)]).save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no plan")
    (tmp_path / "empty.npz").write_bytes(b"")
    for size in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"cut{size}.npz").write_bytes(whole[:size])
    for file in sorted(tmp_path.iterdir()):
        if file != path:
            with pytest.raises(ValueError, match="expected a plan"):
                Plan.load(file)
    with pytest.raises(ValueError, match="can be read"):
        Plan.load(tmp_path / "missing.npz")


def test_failed_save_leaves_the_old_file(network, tmp_path, monkeypatch):
    path = tmp_path / "plan.npz"
    Plan([]).save(path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space left on the disk"):
        Plan([reorganize(network)]).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["plan.npz"]
    with pytest.raises(OSError, match="there is no folder"):
        Plan([]).save(tmp_path / "no folder" / "plan.npz")


def test_two_plans_of_one_group_are_refused(network):
    plan = reorganize(network)
    with pytest.raises(ValueError, match="two for 'first'"):
        Plan([plan, plan])
    with pytest.raises(ValueError, match="two for 'first'"):
        transform([plan, plan], network.weights)


def moments(plan, x):
    """Of samples ``x`` and of what the plan makes of them."""
    return SecondMoments(x.T @ x, *np.zeros((2, *plan.A.shape)), samples=len(x)).merged(plan)


def residual(plan, x):
    return moments(plan, x).residual(plan)


def naive_refit(x, changed, kept, V, ridge, prior):
    """Ridge regression of what the consumers read, towards the consumers of the plan."""
    G = changed[:, kept].T @ changed[:, kept]
    strength = ridge * np.trace(G) / len(kept)
    start = V @ prior.T
    residual = x @ V.T - changed @ start.T
    step = np.linalg.solve(G + strength * np.eye(len(kept)), changed[:, kept].T @ residual)
    result = start.copy()
    result[:, kept] += step.T
    return result


def with_ridge(monkeypatch, ridge):
    monkeypatch.setattr(least_squares, "RIDGES", (ridge,))


def test_refit_is_the_ridge_regression_of_the_consumers(network, monkeypatch):
    with_ridge(monkeypatch, 0.01)
    plan = reorganize(network)
    x = network.tap().astype(np.float64)
    changed, own = x @ plan.A.T, moments(plan, x)
    fitted = refit(plan, own, own)
    V = network.weights["second"].astype(np.float64)
    expected = naive_refit(x, changed, plan.survivors, V, 0.01, plan.B)
    np.testing.assert_allclose(V @ fitted.B.T, expected, atol=1e-8)
    assert not fitted.B[plan.new].any()


def test_refit_makes_the_linear_case_exact(network, monkeypatch):
    """Channels that are linear combinations of the survivors cost nothing after the refit."""
    with_ridge(monkeypatch, 1e-10)
    rng = np.random.default_rng(0)
    mix = np.zeros((12, 12))
    plan = reorganize(network, Recipe.comparison("l2"))
    mix[:, plan.survivors] = rng.normal(size=(12, 6))
    mix[plan.survivors] = np.eye(12)[plan.survivors]
    x = rng.normal(size=(400, 12)) @ mix.T
    own = moments(plan, x)
    fitted = refit(plan, own, own)
    assert residual(plan, x) > 0.1
    assert residual(fitted, x) < 1e-12
    V = network.weights["second"].astype(np.float64)
    np.testing.assert_allclose(x @ plan.A.T @ (V @ fitted.B.T).T, x @ V.T, atol=1e-6)


def test_refit_lowers_the_error(network):
    for recipe in RECIPES:
        plan = reorganize(network, recipe)
        x = network.tap().astype(np.float64)
        assert residual(refit(plan, moments(plan, x)), x) < residual(plan, x)


def test_the_residual_is_what_consumers_miss(network):
    plan = reorganize(network)
    x = network.tap().astype(np.float64)
    missed = x - x @ plan.A.T @ plan.B
    expected = (missed**2).sum() / (x**2).sum()
    np.testing.assert_allclose(residual(plan, x), expected, rtol=1e-9)


def test_the_ridge_is_the_one_that_serves_samples_held_out(network, monkeypatch):
    """Few samples that a small ridge would fit exactly: a larger one is chosen."""
    rng = np.random.default_rng(3)
    plan = reorganize(network)
    x = network.tap().astype(np.float64)
    few, held = x[:4] + rng.normal(size=(4, 12)), x[4:]
    own, other = moments(plan, few), moments(plan, held)
    chosen = residual(refit(plan, own, other), held)
    fixed = []
    for ridge in (1e-4, 1e-2, 1.0):
        with_ridge(monkeypatch, ridge)
        fixed.append(residual(refit(plan, own, own), held))
    assert chosen <= min(*fixed, residual(plan, held)) * (1 + 1e-9)


def test_refit_keeps_exact_merges(make_network):
    network = make_network(copies=3)
    plan = reorganize(network, Recipe(ratio=0.5))
    x = network.tap().astype(np.float64)
    np.testing.assert_allclose(refit(plan, moments(plan, x)).B, plan.B, atol=1e-4)


def test_refit_refusals(network):
    plan = reorganize(network)
    good = np.eye(12)
    with pytest.raises(ValueError, match=r"shape \(12, 12\)"):
        refit(plan, SecondMoments(good, good, np.eye(11)))
    with pytest.raises(ValueError, match="finite"):
        refit(plan, SecondMoments(good, good * np.nan, good))
    with pytest.raises(ValueError, match="arranges"):
        refit(
            arrange_plan([network.group], "random").groups[0], SecondMoments(good, good, good)
        )
    silent = refit(plan, SecondMoments(good * 0, good * 0, good * 0))
    np.testing.assert_array_equal(silent.B, plan.B)


def test_groups_skipped_for_one_reason_are_told_in_one_line(network):
    skipped = {name: "reaches an output" for name in ("stem", "a", "b", "c", "d")}
    skipped["e"] = "takes part in a table"
    plan = Plan([reorganize(network)], skipped=skipped)
    for told in (str(plan), str(Report.of(plan))):
        assert "skipped stem, a, b and 2 more: reaches an output\n" in told
        assert "skipped e: takes part in a table" in told
    assert Report.of(plan).to_dict()["skipped"] == skipped


def test_reports_say_what_the_plan_did(network):
    plan = Plan([reorganize(network)], skipped={"stem": "reaches an output"})
    report = replace(Report.of(plan), output_change=0.01, seconds=1.5)
    first = report["first"]
    assert isinstance(first, GroupReport)
    assert first.survivors + first.new == first.channels == 12
    assert first.before is plan.groups[0].capacity
    text = str(report)
    for part in ("first: 12 channels", f"{first.new} new", "skipped stem", "changed by 1% of"):
        assert part in text
    assert json.loads(json.dumps(report.to_dict()))["groups"][0]["merged"] == first.merged
    moved = Report.of(arrange_plan([network.group], "random"))
    assert f"{moved.plan.groups[0].moved} of 12 channels moved" in str(moved)
    with pytest.raises(KeyError):
        report["other"]


def test_inverse_of_a_merge_is_refused(network):
    plan = reorganize(network)
    assert isinstance(plan, GroupPlan)
    with pytest.raises(ValueError, match="keep a copy"):
        plan.inverse()
