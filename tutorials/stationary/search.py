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
DECAYS = (0.0, 0.3, 1.0, 3.0)
# Where the plain network learns labels by heart; the spaces name its layers.
MEMORIZED = ("noise", "growing", "memorizing")


def grid(**values: tuple[Any, ...]) -> list[Setting]:
    """Every combination.

    >>> grid(keep=(0.5,), draw=(0.1, 0.3))
    [{'keep': 0.5, 'draw': 0.1}, {'keep': 0.5, 'draw': 0.3}]
    """
    return [dict(zip(values, of, strict=True)) for of in itertools.product(*values.values())]


def later_layers() -> list[Setting]:
    layers = ("2.", "4.", "7.", "9.")
    return grid(layers=(layers[2:], layers[1:], layers), decay=DECAYS)


def shrink_perturb() -> list[Setting]:
    return grid(keep=(0.2, 0.4, 0.6, 0.8), draw=(0.03, 0.1, 0.3), decay=DECAYS[::2])


def ours() -> list[Setting]:
    """Shares of every layer, methods, what new channels are, weight decay and a new head."""
    draw = random.Random(0).choice
    return [
        {
            "decay": draw(DECAYS),
            "head": draw((True, False)),
            "recipe": {
                "ratio": {
                    "0.*": draw((1.0, 0.9, 0.75, 0.5)),
                    "2.*": draw((1.0, 0.9, 0.75, 0.5)),
                    "4.*": draw((0.9, 0.75, 0.5, 0.3, 0.15)),
                    "7.*": draw((0.75, 0.5, 0.3, 0.2, 0.1, 0.05)),
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


SPACES: dict[str, Callable[[], list[Setting]]] = {
    "later-layers": later_layers, "shrink-perturb": shrink_perturb, "ours": ours,
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
    parser.add_argument("--cases", nargs="+", choices=MEMORIZED, default=MEMORIZED)
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
        tried = [{"setting": setting, "accuracy": {}} for setting in SPACES[space]()]
        if begun.exists():
            tried = json.loads(begun.read_text())["tried"]
        search(cases.CASES[name], data, path, tried)


if __name__ == "__main__":
    main()
