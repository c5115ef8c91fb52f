"""Events counted in optimizer steps: what is kept to judge by, and channels too young to go.

Data that keep changing have no epochs and no loader that could be read again.  What is judged is
what was seen since the last event, as many samples of every class, kept here in bounded memory; new
channels are left alone until they have learned something (as in continual backprop, Dohare et al.,
Nature 2024).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from ....graph.plan.plan import GroupPlan
from ..batches import as_numbers, samples
from ..sample_order import balanced, is_index

MAX_BYTES = 2**28  # of batches kept, 256 MiB
RECENT, MATURITY = 512, 100  # samples and steps, unless others are asked for
KEPT = 4  # times as many samples as are judged by, so that there are some of rare classes


class Seen(NamedTuple):
    """A batch that the model was trained with.

    Attributes
    ----------
    inputs : tensor, tuple or dict
    labels : Tensor or None
    """

    inputs: Any
    labels: torch.Tensor | None

    @property
    def samples(self) -> int:
        return samples(self.inputs if isinstance(self.inputs, (tuple, dict)) else (self.inputs,))

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in tree_leaves(tuple(self)) if isinstance(x, torch.Tensor))


class Steps:
    """The steps of a training so far.

    Parameters
    ----------
    every : int
        Steps from one event to the next.
    recent : int
        Samples to judge by.  ``KEPT`` times as many are kept, in batches that are evenly spaced
        over ``every`` steps; the oldest leaves as soon as the others hold so many, or where all
        of them would need more than ``MAX_BYTES``.  Of a larger batch the first ones are kept.
    maturity : int
        Steps for which a new channel is left alone.

    Attributes
    ----------
    count : int
    kept : deque of Seen
        The oldest first.
    young : dict of str to dict
        By the name of a group: the places of new channels, and the step after which they began.
    """

    def __init__(self, every: int, recent: int | None = None, maturity: int | None = None) -> None:
        recent = RECENT if recent is None else recent
        maturity = MATURITY if maturity is None else maturity
        for name, value, least in (
            ("every_steps", every, 1), ("recent", recent, 1), ("maturity", maturity, 0)
        ):  # fmt: skip
            if not (isinstance(value, int) and not isinstance(value, bool) and value >= least):
                raise ValueError(f"expected {name} to be a number from {least} on, got {value!r}")
        self.every, self.recent, self.maturity = every, recent, maturity
        self.count = 0
        self.kept: deque[Seen] = deque()
        self.young: dict[str, dict[int, int]] = {}

    def add(self, inputs: Any, labels: Any) -> bool:
        """One more step, and its batch; whether an event is due.

        Raises
        ------
        ValueError
            The labels are neither class indices nor class weights, or come with some batches only.
        """
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        inputs = tree_map(lambda x: torch.as_tensor(x) if isinstance(x, np.ndarray) else x, inputs)
        labels = None if labels is None else as_numbers(labels)
        if labels is not None and labels.shape[1:] == (1,) and not labels.is_floating_point():
            labels = labels[:, 0]  # a column of class indices
        seen = Seen(inputs, labels)
        self._check_kind(labels)
        fit = max(1, MAX_BYTES // max(1, seen.nbytes))
        n = seen.samples
        wanted = min(-(-KEPT * self.recent // max(1, n)), fit)  # of ``every`` batches
        if n and (self.count + 1) * wanted % self.every < wanted:
            self._keep(seen)
        self.count += 1
        return self.count % self.every == 0

    def _check_kind(self, labels: torch.Tensor | None) -> None:
        """Refuse at once what no event could judge by."""
        if self.kept and (labels is None) != (self.kept[-1].labels is None):
            raise ValueError("expected labels with every batch or with none: some had them")
        if labels is None or not labels.numel():
            return
        if labels.ndim != 2 and not is_index(labels):
            raise ValueError(
                "expected labels that are class indices of shape (n,) or class weights of shape "
                f"(n, C), got {labels.dtype} of shape {tuple(labels.shape)}: of other targets "
                "leave them out"
            )

    def batches(self, gather: Callable[[Any], list[Any]]) -> list[Seen]:
        """What is judged by: ``recent`` of the samples kept, as many of every class as there are.

        Of batches that cannot be taken apart, every ``KEPT``-th.  Class means need samples of
        every class from 0 on, so that the classes at hand, in all processes, are numbered anew.
        Rows of class weights stay as they are.
        """
        kept = list(self.kept)
        found = balanced(kept, self.recent) or kept[::-KEPT][::-1]
        own = {c for _, labels in found if is_index(labels) for c in labels.tolist()}
        known = torch.tensor(sorted(set().union(*gather(own))))

        def renumbered(labels: torch.Tensor | None) -> torch.Tensor | None:
            return torch.searchsorted(known, labels.cpu()) if is_index(labels) else labels

        return [Seen(batch.inputs, renumbered(batch.labels)) for batch in found]

    def protected(self) -> dict[str, list[int]]:
        """Channels by group that are too young to go."""
        self.young = {
            group: {p: start for p, start in places.items() if self.count - start < self.maturity}
            for group, places in self.young.items()
        }
        return {group: list(places) for group, places in self.young.items() if places}

    def born(self, plans: Iterable[GroupPlan]) -> None:
        """New channels; those that were protected have stayed in their places."""
        for plan in plans:
            places = self.young.setdefault(plan.group, {})
            places.update(dict.fromkeys(plan.new.tolist(), self.count))

    def state_dict(self) -> dict[str, Any]:
        """Plain types, and the batches kept as tensors."""
        return {
            "count": self.count,
            "young": {name: [list(p) for p in found.items()] for name, found in self.young.items()},
            "kept": [tuple(batch) for batch in self.kept],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.count = state["count"]
        self.young = {name: dict(pairs) for name, pairs in state["young"].items()}
        self.kept = deque(Seen(*batch) for batch in state["kept"])

    def _keep(self, seen: Seen) -> None:
        n, most, labels = seen.samples, KEPT * self.recent, seen.labels
        if labels is not None and labels.numel() and (least := labels.amin().item()) < 0:
            raise ValueError(
                f"expected class indices or class weights of at least 0, got {least:g}: leave out "
                "samples that are of no class, and other targets altogether"
            )

        def own(x: Any) -> Any:
            """A copy: loaders and users may fill the same memory again."""
            if not isinstance(x, torch.Tensor):
                return x
            whole = x.ndim and len(x) == n
            return (x[:most] if whole else x).detach().clone()

        self.kept.append(Seen(*tree_map(own, tuple(seen))))
        while len(self.kept) > 1 and (
            _samples(itertools.islice(self.kept, 1, None)) >= most
            or sum(batch.nbytes for batch in self.kept) > MAX_BYTES
        ):
            self.kept.popleft()


def _samples(batches: Iterable[Seen]) -> int:
    return sum(batch.samples for batch in batches)


def refuse_beside_steps(options: Mapping[str, Any]) -> None:
    """Raise where something was given that events counted in steps have no use for."""
    given: Sequence[str] = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(
            f"every_steps judges by the batches that step(inputs, labels) is given, without end: "
            f"leave out {', '.join(given)}"
        )
