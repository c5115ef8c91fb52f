"""The best settings of an arm on a case: many are tried on seeds that no comparison uses.

Run as (one core; it goes on after a kill where it was)::

    OMP_NUM_THREADS=1 python tutorials/stationary/search.py --data DIR
    OMP_NUM_THREADS=1 python tutorials/stationary/study.py --data DIR --seeds 0:10

Successive halving (Jamieson and Talwalkar 2016): all settings of a space are trained with the
first seed, the best of them with two more, the best of these with another two (``RUNGS``).  What
ends best on average over all five is what ``study.py`` runs as the arms that are *searched*.  Every
setting, with what it reached, is in ``search/``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import arms  # noqa: E402
import cases  # noqa: E402
from run_files import save, versions  # noqa: E402
from study import trained  # noqa: E402

Setting = dict[str, Any]

RUNGS = ((100,), (101, 102), (103, 104))  # seeds
KEPT = (None, 30, 10)  # settings that are trained with them; None: all
SETTINGS = 100  # of ours, drawn at random
# Where the plain network learns labels by heart, and where a part of it idles.
CASES = ("noise", "growing", "memorizing", "narrow-8")
# Of a layer: what is kept of the first two, of the last one, and of those between.
EARLY = (1.0, 0.9, 0.75, 0.5)
BETWEEN = (0.9, 0.75, 0.5, 0.3, 0.15)
LAST = (0.75, 0.5, 0.3, 0.2, 0.1, 0.05)


def grid(**values: tuple[Any, ...]) -> list[Setting]:
    """Every combination.

    >>> grid(keep=(0.5,), draw=(0.1, 0.3))
    [{'keep': 0.5, 'draw': 0.1}, {'keep': 0.5, 'draw': 0.3}]
    """
    return [dict(zip(values, of, strict=True)) for of in itertools.product(*values.values())]


def plain(case: cases.Case) -> list[Setting]:
    return grid(rate=(0.5, 1.0, 2.0), decay=case.decays)


def later_layers(case: cases.Case) -> list[Setting]:
    """From the last two layers to all but the first."""
    layers = (*(name.rstrip("*") for name in case.graded), *case.head)
    last = tuple(layers[-n:] for n in range(2, len(layers)))
    return grid(layers=last, decay=case.decays)


def shrink_perturb(case: cases.Case) -> list[Setting]:
    return grid(keep=(0.2, 0.4, 0.6, 0.8), draw=(0.03, 0.1, 0.3), decay=case.decays[::2])


def ours(case: cases.Case) -> list[Setting]:
    """Shares of every layer, methods, what new channels are, weight decay and a new head."""
    draw = random.Random(0).choice
    shares = (EARLY, EARLY, *[BETWEEN] * (len(case.graded) - 3), LAST)
    return [
        {
            "decay": draw(case.decays),
            "head": draw((True, False)),
            "recipe": {
                "ratio": {
                    layer: draw(kept) for layer, kept in zip(case.graded, shares, strict=True)
                },
                "method": draw(("sofm", "kmeans")),
                "merge": draw(("mean", "medoid")),
                "init": draw(("match", "kaiming", "orthogonal")),
                "new_outgoing": draw(("zero", "random")),
                "outgoing": draw(("least_squares", "sum")),
            },
        }
        for _ in range(SETTINGS)
    ]


def redundant(case: cases.Case) -> list[Setting]:
    """What is redundant goes: how little a channel must respond, what new ones are, and decay."""
    return [
        {"decay": decay, "recipe": {"ratio": "redundant", "dormant": dormant, "init": init}}
        for decay in case.decays
        for dormant in (0.025, 0.1)
        for init in ("match", "kaiming")
    ]


SPACES: dict[str, Callable[[cases.Case], list[Setting]]] = {
    "plain": plain, "later-layers": later_layers, "shrink-perturb": shrink_perturb, "ours": ours,
    "redundant": redundant,
}  # fmt: skip


def search(case: cases.Case, data: Any, path: Path, tried: list[dict[str, Any]]) -> None:
    """Train what has not been trained yet; ``tried`` are settings and their accuracies by seed."""

    def mean(one: dict[str, Any]) -> float:
        return float(np.mean(list(one["accuracy"].values())))

    left = tried
    for seeds, kept in zip(RUNGS, KEPT, strict=True):
        left = sorted(left, key=mean, reverse=True)[:kept] if kept else left
        for seed, one in itertools.product(seeds, left):
            if str(seed) in one["accuracy"]:
                continue
            arm = arms.built(one["setting"])
            one["accuracy"][str(seed)] = trained(case, arm, seed, data)["accuracy"]
            save({"tried": tried}, path.with_suffix(".unfinished"))
    best = max(left, key=mean)
    save(
        {"best": best["setting"], "mean": round(mean(best), 5), "tried": tried,
         "versions": versions()},
        path,
    )  # fmt: skip
    path.with_suffix(".unfinished").unlink(missing_ok=True)
    print(f"{path.stem}: {mean(best):.1%}, {best['setting']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of data")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--output", type=Path, default=arms.FOUND)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = {split: cases.images(options.data, split) for split in ("train", "test")}
    options.output.mkdir(parents=True, exist_ok=True)
    for name, space in itertools.product(options.cases, options.spaces):
        path = options.output / f"{name}-{space}.json"
        begun = path.with_suffix(".unfinished")
        if path.exists():
            continue
        case = cases.CASES[name]
        tried = [{"setting": setting, "accuracy": {}} for setting in SPACES[space](case)]
        if begun.exists():
            tried = json.loads(begun.read_text())["tried"]
        search(case, data, path, tried)


if __name__ == "__main__":
    main()
