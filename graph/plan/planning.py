"""How plans are made: arrange and reorganize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ..change.new_channels import named_seed
from ..change.new_filters import prescribed_filters
from ..change.surgery import check
from ..find.channels import ChannelGroup, Member
from ..measure.class_means import ClassMeans
from ..one_thread import on_one_thread
from .capacity import capacity
from .mapping import order_along_map
from .merging import parts
from .plan import GroupPlan, Plan
from .recipe import Recipe
from .redundancy import why_not
from .selection import ratio_of, unmovable, untapped


@on_one_thread
def arrange_plan(
    groups: Sequence[ChannelGroup],
    order: Literal["sofm", "random"] | Mapping[str, np.ndarray] = "sofm",
    means: Mapping[str, ClassMeans] | None = None,
    seed: int = 0,
) -> Plan:
    """Permute channels within their exchangeable sets.

    Parameters
    ----------
    groups : sequence of ChannelGroup
    order : {"sofm", "random"} or mapping of group name to ndarray of int, shape (channels,)
        By place on a map with one node a channel, at random, or as given: place ``p`` takes
        channel ``order[p]``.  With a mapping, only the groups that it names are planned.
    means : mapping of group name to ClassMeans, optional
        Needed for ``"sofm"``.
    seed : int

    Returns
    -------
    Plan
        Frozen groups, groups in which nothing can be exchanged and, for ``"sofm"``, groups
        without a tap are in ``Plan.skipped`` with the reason.

    Raises
    ------
    ValueError
        Where an order is asked for a frozen or unknown group or is not a permutation within the
        exchangeable sets; where ``"sofm"`` lacks the means of a group.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.graph import Graph, arrange_plan, composites, find_groups
    >>> graph = Graph(inputs=["x"], outputs=["y"], weights={"a": "first", "b": "second"}, shapes={
    ...     "x": (5, 1), "a": (1, 4), "h": (5, 4), "b": (4, 1), "y": (5, 1)})
    >>> composites.multiplied(graph, "x", "a", "h")
    >>> composites.multiplied(graph, "h", "b", "y")
    >>> print(arrange_plan(find_groups(graph), {"first": np.array([3, 1, 2, 0])}))
    arrange first: 2 of 4 channels move; 2 weights
    """
    if not isinstance(order, Mapping) and order not in ("sofm", "random"):
        raise ValueError(
            f"expected order to be 'sofm', 'random' or a mapping of group name to array, "
            f"got {order!r}"
        )
    if isinstance(order, Mapping):
        known = {group.name: group for group in groups}
        for name in order:
            if name not in known:
                raise ValueError(f"expected the name of a group, got {name!r}")
            if known[name].frozen is not None:
                raise ValueError(f"group {name!r} cannot be arranged: {known[name].frozen}")
        groups = [known[name] for name in order]
    plans, skipped = [], {}
    for group in groups:
        reason = unmovable(group)
        if reason is None and order == "sofm":
            reason = untapped(group)
        if reason is not None and not isinstance(order, Mapping):
            skipped[group.name] = reason
            continue
        if isinstance(order, Mapping):
            places = _checked_order(group, np.asarray(order[group.name]))
        elif order == "random":
            places = _random_order(group, seed)
        else:
            places = _map_order(group, _q(group, means), seed)
        plans.append(
            GroupPlan(
                group=group.name,
                kind="arrange",
                channels=group.channels,
                members=group.members,
                sets=tuple(group.exchangeable),
                order=places,
                method="given" if isinstance(order, Mapping) else order,
                seed=seed,
            )
        )
    return Plan(plans, None, skipped)


def _q(group: ChannelGroup, means: Mapping[str, ClassMeans] | ClassMeans | None) -> np.ndarray:
    """Class-representative activations of a group, checked against its channels."""
    own = means if isinstance(means, ClassMeans) else (means or {}).get(group.name)
    if own is None:
        raise ValueError(
            f"expected class means of group {group.name!r}, got none; collect them from "
            "labelled data first"
        )
    Q = own.Q
    if Q.shape[1] != group.channels:
        raise ValueError(
            f"expected class means of {group.channels} channels for group {group.name!r}, "
            f"got {Q.shape[1]}"
        )
    return Q


def _random_order(group: ChannelGroup, seed: int) -> np.ndarray:
    places = np.arange(group.channels)
    rng = np.random.default_rng(named_seed(seed, group.name, "order"))
    for indices in group.exchangeable:
        places[indices] = rng.permutation(indices)
    return places


def _map_order(group: ChannelGroup, Q: np.ndarray, seed: int) -> np.ndarray:
    places = np.arange(group.channels)
    for number, indices in enumerate(group.exchangeable):
        if len(indices) > 1:
            indices = np.sort(indices)
            own = named_seed(seed, group.name, str(number))
            places[indices] = indices[order_along_map(Q[:, indices], Recipe(), own)]
    return places


def _checked_order(group: ChannelGroup, order: np.ndarray) -> np.ndarray:
    o = group.channels
    if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order, axis=None), np.arange(o)):
        raise ValueError(
            f"expected a permutation of the {o} channels of group {group.name!r}, "
            f"got an array of {order.dtype} with shape {order.shape}"
        )
    label = -1 - np.arange(o)  # channels outside of the sets may not move
    for number, indices in enumerate(group.exchangeable):
        label[indices] = number
    wrong = np.flatnonzero(label[order] != label)
    if wrong.size:
        p = int(wrong[0])
        raise ValueError(
            f"channels {p} and {int(order[p])} of group {group.name!r} may not be exchanged: "
            "move channels within the sets of group.exchangeable only"
        )
    return order.astype(np.int64)


@on_one_thread
def reorganize_plan(
    group: ChannelGroup,
    weights: Mapping[str, np.ndarray],
    recipe: Recipe | None = None,
    means: ClassMeans | None = None,
    layer: str | None = None,
    gradients: Mapping[str, np.ndarray] | None = None,
    gram: np.ndarray | None = None,
) -> GroupPlan:
    """Merge the channels of a group and name those to re-initialize.

    Every exchangeable set is mapped on its own, to ``K = round(ratio * channels of the set)``
    nodes, at least one; with ``ratio="redundant"``, to as many as it has responses.

    Parameters
    ----------
    group : ChannelGroup
    weights : mapping of str to ndarray
        Read by the methods that score filters and for their directions; checked for all.
    recipe : Recipe, optional
        ``Recipe.preserving()`` by default.
    means : ClassMeans, optional
        Needed where ``recipe.needs_means``.
    layer : str, optional
        With ``scope="layer"``, the producer to change; the last one by default.
    gradients : mapping of str to ndarray, optional
        Gradient of the loss by the name of the weight, needed where ``recipe.needs_gradients``.
    gram : ndarray of float64, shape (channels, channels), optional
        Second moments of the channels, needed by method ``"subset"``.

    Returns
    -------
    GroupPlan
        With ``outgoing="least_squares"`` the consumers add up until :func:`rejuvenet.graph.refit`.

    Raises
    ------
    ValueError
        Where the group is frozen or has nothing to exchange, means or gradients are missing or
        incomplete, a weight is missing, of another shape or quantized, or ``"l1"`` finds no scale.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.graph import Graph, Recipe, composites, find_groups, reorganize_plan
    >>> graph = Graph(inputs=["x"], outputs=["y"], weights={"a": "first", "b": "second"}, shapes={
    ...     "x": (5, 1), "a": (1, 4), "h": (5, 4), "b": (4, 1), "y": (5, 1)})
    >>> composites.multiplied(graph, "x", "a", "h")
    >>> composites.multiplied(graph, "h", "b", "y")
    >>> weights = {"first": np.array([[1.0, 4, 2, 3]]), "second": np.array([[1.0], [2], [3], [4]])}
    >>> recipe = Recipe.comparison("l2", ratio=0.5)
    >>> plan = reorganize_plan(find_groups(graph)[0], weights, recipe)
    >>> plan.survivors, plan.new
    (array([1, 3]), array([0, 2]))
    """
    recipe = recipe or Recipe.preserving()
    reason = unmovable(group)
    if reason is not None:
        raise ValueError(f"group {group.name!r} cannot be reorganized: {reason}")
    recipe = replace(recipe, ratio=ratio_of(group, recipe.ratio))
    Q, activity = None, None
    if recipe.needs_means or means is not None:
        Q = _q(group, means)
        activity = None if means is None else means.activity
        if activity is None:
            activity = np.abs(Q).mean(axis=(0, 2, 3), dtype=np.float64)
    if recipe.method == "subset" and gram is None:
        raise ValueError(
            f"method 'subset' needs second moments of group {group.name!r}: it comes with "
            "outgoing 'least_squares'"
        )
    o = group.channels
    A, B = np.eye(o), np.eye(o)
    new: list[np.ndarray] = []
    nodes = occupied = merged = 0
    starts = () if means is None else means.starts
    for part in parts(group, weights, recipe, Q, activity, starts, gram):
        S, places = part.channels, part.places
        A[S], B[S] = 0.0, 0.0
        A[np.ix_(places, S)], B[np.ix_(places, S)] = part.A, part.B
        new.append(np.setdiff1d(S, places))
        nodes, occupied, merged = nodes + part.nodes, occupied + len(places), merged + part.merged
    members, note = _members_in_scope(group, recipe, layer)
    if recipe.assign == "fingerprint" and occupied < nodes:
        more = f"{nodes - occupied} more freed than asked for: only {occupied} respond differently"
        note = "; ".join(filter(None, (note, more)))
    plan = GroupPlan(
        group=group.name,
        kind="reorganize",
        channels=o,
        members=members,
        sets=tuple(np.sort(indices) for indices in group.exchangeable),
        A=A,
        B=B,
        shares=B.copy(),
        new=np.sort(np.concatenate(new)),
        method=recipe.method,
        init=recipe.init,
        new_outgoing=recipe.new_outgoing,
        outgoing=recipe.outgoing,
        seed=recipe.seed,
        nodes=nodes,
        occupied=occupied,
        merged=merged,
        capacity=None if Q is None else capacity(Q, max(nodes, 1), activity, recipe.seed),
        note=note,
    )
    check([plan], weights)
    if plan.new.size:
        return replace(plan, filters=prescribed_filters(plan, weights, gradients))
    if recipe.ratio == "redundant":
        assert Q is not None
        assert activity is not None
        return replace(plan, reason=why_not(Q, activity, recipe, starts))
    reason = f"each of its {nodes} nodes has a channel of its own; a smaller ratio frees channels"
    return replace(plan, reason=reason)


def _members_in_scope(
    group: ChannelGroup, recipe: Recipe, layer: str | None
) -> tuple[tuple[Member, ...], str]:
    """Members that the plan changes, and what to say about it."""
    note = "" if group.exact_merge is None else f"approximate: {group.exact_merge}"
    layers = [m.weight for m in group.producers if m.role == "weight"]
    if recipe.scope == "group" or len(set(layers)) < 2:
        return group.members, note
    chosen = layers[-1] if layer is None else layer
    if chosen not in layers:
        raise ValueError(
            f"expected a producer of group {group.name!r} ({', '.join(layers)}), got {layer!r}"
        )
    start = max(i for i, m in enumerate(group.members) if m.weight == chosen)
    members = tuple(
        member
        for i, member in enumerate(group.members)
        if (member.kind == "consumer" and i > start)
        or (member.kind != "consumer" and chosen in (member.weight, member.origin))
    )
    literal = f"only {chosen} changes, the other producers of its sum do not"
    return members, f"{note}; {literal}" if note else literal
