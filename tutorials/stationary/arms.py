"""Arms: what happens between two stages of a training whose data stay."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from cases import CASES, Case, Labelled
from rejuvenet.adapters.torch import Reorganizer, WarmUp, reorganize
from rejuvenet.graph import Recipe
from torch import nn

DECAYS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

FOUND = Path(__file__).parent / "search"  # what search.py found: a file for each case and space


@dataclass
class Arm:
    """Plain training, with the same restarts as in every other arm."""

    decay: float = 0.0  # AdamW's weight decay; nan stands for the case's tuned one
    rate: float = 1.0  # times the case's learning rate

    def weight_decay(self, case: Case) -> float:
        return case.tuned if math.isnan(self.decay) else self.decay

    def event(
        self, case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, data: Labelled,
        seed: int,
    ) -> int:  # fmt: skip
        """Changes the model, given some of the last stage's data; returns the freed channels."""
        return 0


@dataclass
class Fresh(Arm):
    """``theta <- keep theta + draw fresh``, with ``fresh`` the weights of a new network.

    Shrink and perturb (Ash and Adams 2020) where both are small; where ``keep`` is 0 and ``draw``
    1, a reset, of all layers, of the case's ``"later"`` ones (later-layer forgetting, Zhou et al.
    2022), of its ``"head"``, or of those whose names begin with one of ``layers``.
    """

    keep: float = 0.0
    draw: float = 1.0
    layers: str | tuple[str, ...] = "all"

    def event(
        self, case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, data: Labelled,
        seed: int,
    ) -> int:  # fmt: skip
        words = {"all": ("",), "later": case.later, "head": case.head}
        layers = words[self.layers] if isinstance(self.layers, str) else self.layers
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            fresh = case.network().state_dict()
            for name, value in model.state_dict().items():
                if name.startswith(layers) and value.is_floating_point():
                    value.mul_(self.keep).add_(fresh[name], alpha=self.draw)
        return 0


@dataclass
class Reorganized(Arm):
    """Channels are freed by a recipe in all hidden layers, and drawn again.

    For a share ``absent`` of the stage they stay out of the network (RePr); ``head`` draws the
    layer of the scores again; ``graded`` takes the shares of the case in place of the recipe's;
    ``chance`` draws at random which ones go, as many of every layer as the recipe would free.
    """

    recipe: Recipe = field(default_factory=Recipe.preserving)
    absent: float = 0.0
    head: bool = False
    graded: bool = False
    chance: bool = False

    def event(
        self, case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, data: Labelled,
        seed: int,
    ) -> int:  # fmt: skip
        warmup = WarmUp(steps=0, wait=round(self.absent * case.steps)) if self.absent else None
        recipe = replace(self.recipe, ratio=case.graded) if self.graded else self.recipe
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "nothing was freed|.* samples give ")
            if self.chance:
                told = reorganize(
                    deepcopy(model), [data], layers="all", recipe=replace(recipe, seed=seed)
                )
                ratio = {group.group: 1 - group.new / group.channels for group in told.groups}
                recipe = replace(recipe, ratio=ratio, method="random")
            report = Reorganizer(
                model, optimizer, [data], layers="all", every=1, recipe=recipe, seed=seed,
                warmup=warmup,
            ).step(0)  # fmt: skip
        if self.head:
            Fresh(layers="head").event(case, model, optimizer, data, seed)
        return sum(group.new for group in report.groups)


def freeing(ratio: Any, method: str = "sofm", **options: Any) -> dict[str, Any]:
    """Options of :class:`Reorganized` with the recipe that keeps the function."""
    return {"recipe": Recipe.preserving(ratio=ratio, method=method, optimizer="reset"), **options}


# Few of the early channels, most of the later ones; and a new head.
GRADED: dict[str, Any] = {"graded": True, "head": True}

ARMS: dict[str, tuple[str, type[Arm], dict[str, Any]]] = {
    # name: (title, kind, what differs from its defaults)
    "plain": ("plain", Arm, {}),
    "tuned-decay": ("tuned weight decay", Arm, {"decay": float("nan")}),
    "shrink-perturb": ("shrink and perturb", Fresh, {"keep": 0.6, "draw": 0.1}),
    "later-layers": ("later-layer forgetting", Fresh, {"layers": "later"}),
    "reset": ("full reset", Fresh, {}),
    "random-0.8": ("random channels, 0.8", Reorganized, freeing(0.8, "random")),
    "random-0.5": ("random channels, 0.5", Reorganized, freeing(0.5, "random")),
    "random-graded": (
        "random channels, graded, new head", Reorganized, freeing(0.5, "random", **GRADED),
    ),
    "random-redundant": (
        "random channels, as many as are redundant", Reorganized,
        freeing("redundant", chance=True),
    ),
    "redo": (
        "ReDo, threshold 0.025", Reorganized,
        {"recipe": Recipe.comparison("redo", ratio="redundant", optimizer="reset")},
    ),
    "repr": (
        "RePr, 0.7, absent for half a stage", Reorganized,
        {"recipe": Recipe.comparison("repr", ratio=0.7, optimizer="reset"), "absent": 0.5},
    ),
    "ours-redundant": ('ours, "redundant"', Reorganized, freeing("redundant")),
    "ours-0.8": ("ours, 0.8", Reorganized, freeing(0.8)),
    "ours-0.5": ("ours, 0.5", Reorganized, freeing(0.5)),
    "ours-graded": ("ours, graded, new head", Reorganized, freeing(0.5, **GRADED)),
    **{f"decay-{d:g}": (f"weight decay {d:g}", Arm, {"decay": d}) for d in DECAYS},
}  # fmt: skip

# The best settings of a space of search.py, on the case at hand; and ours with channels at random.
SEARCHED = {
    "searched-plain": ("learning rate and weight decay (searched)", "plain"),
    "searched-shrink-perturb": ("shrink and perturb (searched)", "shrink-perturb"),
    "searched-later-layers": ("later-layer forgetting (searched)", "later-layers"),
    "searched-random": ("random channels as ours (searched)", "ours"),
    "searched-ours": ("ours (searched)", "ours"),
    "searched-ours-redundant": ('ours, "redundant" (searched)', "redundant"),
}
TITLES = {name: title for name, (title, *_) in {**ARMS, **SEARCHED}.items()}

# What is not compared: the grid from which the tuned weight decay comes.
COMPARED = [name for name in TITLES if not name.startswith("decay-")]


def known(name: str, case: str, folder: Path = FOUND) -> bool:
    """Whether the settings of an arm have been looked for on a case."""
    if name in SEARCHED:
        return (folder / f"{case}-{SEARCHED[name][1]}.json").exists()
    return not math.isnan(make(name).weight_decay(CASES[case]))


def make(name: str, case: str = "", folder: Path = FOUND) -> Arm:
    """The arm of that name, with what was found on the case where it is searched."""
    if name in SEARCHED:
        path = folder / f"{case}-{SEARCHED[name][1]}.json"
        setting = json.loads(path.read_text())["best"]
        if name == "searched-random":
            kept = {k: v for k, v in setting["recipe"].items() if k != "merge"}
            setting = {**setting, "recipe": {**kept, "method": "random"}}
        return built(setting)
    _, kind, options = ARMS[name]
    return kind(**options)


def built(setting: dict[str, Any]) -> Arm:
    """The arm with a setting of search.py: ours where it has a recipe.

    >>> built({"decay": 1.0, "layers": ["9."]}).decay
    1.0
    """
    if setting.keys() <= {"decay", "rate"}:
        return Arm(**setting)
    if "recipe" in setting:
        recipe = Recipe.preserving(optimizer="reset", **setting["recipe"])
        return Reorganized(**{**setting, "recipe": recipe})
    layers = {"layers": tuple(setting["layers"])} if "layers" in setting else {}
    return Fresh(**{**setting, **layers})


def settings(arm: Arm) -> Iterator[tuple[str, Any]]:
    """What decides an arm beside its weight decay and rate, ready for JSON."""
    for name in arm.__dataclass_fields__:
        value = getattr(arm, name)
        if name not in ("decay", "rate"):
            yield name, value.to_dict() if isinstance(value, Recipe) else value
