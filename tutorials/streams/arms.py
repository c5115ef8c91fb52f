"""Arms: ways to keep a network able to learn, each a few hooks around an ordinary Adam loop.

====================  ============================================================================
``before_step``       after the gradients are there, before the optimizer uses them
``after_step``        after the optimizer's step, given its batch
``event``             at the end of a task, where ``occasion`` says so (see :func:`study.occasions`)
====================  ============================================================================

Hyper-parameters are those that Kumar et al. (2023, arXiv 2308.11958, Tables 3 and 4, Adam) found
best on the stream in full length, from ``PUBLISHED``, or one of the values in ``TRIED``, from
which seeds choose that the table does not compare (``study.py --tune``).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rejuvenet.adapters.torch import Reorganizer, reorganize
from rejuvenet.graph import Recipe
from torch import nn
from torch.nn import functional as F

PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "5+1 CIFAR": {
        "layer-norm": {"rate": 1e-4},
        "l2": {"strength": 1e-3},
        "l2-init": {"strength": 1e-2},
        "shrink-perturb": {"shrink": 1e-4, "noise": 1e-2},
        "redo": {"threshold": 0.0, "occasion": "round"},
        "cbp": {"replacement": 1e-4},
    },
    "Permuted MNIST": {
        "layer-norm": {"rate": 1e-3},
        "l2": {"strength": 1e-2},
        "l2-init": {"strength": 1e-2},
        "shrink-perturb": {"shrink": 1e-3, "noise": 1e-2},
        "redo": {"threshold": 0.0, "occasion": "task"},
        "cbp": {"replacement": 1e-3},
    },
    "Random Label CIFAR": {
        "layer-norm": {"rate": 1e-3},
        "l2": {"rate": 1e-4, "strength": 1e-2},
        "l2-init": {"strength": 1e-2},
        "shrink-perturb": {"shrink": 1e-4, "noise": 1e-2},
        "redo": {"rate": 1e-4, "threshold": 0.1, "occasion": "task"},
        "cbp": {"replacement": 1e-4},
    },
}


@dataclass
class Arm:
    """Plain training, or with ``strength * ||theta||^2`` in the loss; there are no events."""

    rate: float = 1e-3
    occasion: str | None = None
    strength: float = 0.0
    layer_norm = False

    def start(self, model: nn.Sequential, optimizer: torch.optim.Adam, seed: int) -> None:
        self.model, self.optimizer = model, optimizer
        self.parameters = list(model.parameters())
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def before_step(self) -> None:
        if self.strength:
            gradients = [p.grad for p in self.parameters]
            torch._foreach_add_(gradients, self.parameters, alpha=2 * self.strength)

    def after_step(self, x: torch.Tensor, y: torch.Tensor) -> None: ...

    def event(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
        """What happens at the end of a task, given images of it; returns the freed units."""
        raise NotImplementedError


@dataclass
class LayerNorm(Arm):
    """Plain training of a network with layer normalization."""

    layer_norm = True


@dataclass
class L2Init(Arm):
    """Adds ``strength * ||theta - theta_0||^2`` to the loss (Kumar et al. 2023)."""

    def start(self, model: nn.Sequential, optimizer: torch.optim.Adam, seed: int) -> None:
        super().start(model, optimizer, seed)
        self.initial = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def before_step(self) -> None:
        super().before_step()
        gradients = [p.grad for p in self.parameters]
        torch._foreach_add_(gradients, self.initial, alpha=-2 * self.strength)


@dataclass
class ShrinkPerturb(Arm):
    """``theta <- (1 - shrink) theta + noise * fresh`` after every step (Ash and Adams 2020).

    ``fresh`` is drawn from the distribution of the initial weights.
    """

    shrink: float = 1e-4
    noise: float = 1e-2

    def start(self, model: nn.Sequential, optimizer: torch.optim.Adam, seed: int) -> None:
        super().start(model, optimizer, seed)
        self.fresh = [
            (p, torch.empty_like(p), _bound(layer)) for layer in _weighted(model)
            for p in (layer.weight, layer.bias)
        ]  # fmt: skip

    @torch.no_grad()
    def after_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for p, fresh, bound in self.fresh:
            fresh.uniform_(-bound, bound, generator=self.generator)
            p.mul_(1 - self.shrink).add_(fresh, alpha=self.noise)


@dataclass
class FullReset(Arm):
    """New weights and a new optimizer after every task: the yardstick of plasticity."""

    occasion: str | None = "task"

    def event(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
        for layer in _weighted(self.model):
            _draw(layer, slice(None), self.generator)
        self.optimizer.state.clear()
        return sum(unit.n for unit in hidden_layers(self.model))


@dataclass
class LaterLayers(Arm):
    """New weights, without moments, behind the first layer: forgetting of Zhou et al. (2022)."""

    occasion: str | None = "hard"

    def event(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
        for layer in _weighted(self.model)[1:]:
            _draw(layer, slice(None), self.generator)
            for parameter in layer.parameters():
                self.optimizer.state.pop(parameter, None)
        return sum(unit.n for unit in hidden_layers(self.model)[1:])


@dataclass
class OptimizerReset(Arm):
    """A new optimizer after every hard task, and the weights as they are: a control."""

    occasion: str | None = "hard"

    def event(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
        self.optimizer.state.clear()
        return 0


@dataclass
class ReDo(Arm):
    """Draws again the units whose mean activation is at most ``threshold`` of their layer's.

    Sokar et al. (2023), "The dormant neuron phenomenon in deep reinforcement learning".
    """

    occasion: str | None = "task"
    threshold: float = 0.0

    @torch.no_grad()
    def event(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
        layers = hidden_layers(self.model)
        for layer in layers:
            layer.watch()
        self.model(torch.cat([x for x, _ in batches]))
        freed = 0
        for layer in layers:
            activity = layer.activity()
            dormant = torch.where(activity <= self.threshold * activity.mean())[0]
            layer.reset(dormant, self.optimizer, self.generator)
            layer.forget()
            freed += len(dormant)
        return freed


@dataclass
class ContinualBackprop(Arm):
    """Every step draws again a small share of the mature units, those of the least utility.

    Dohare et al. (2024), "Loss of plasticity in deep continual learning".  With ``h`` the
    activations of a layer, ``w`` the outgoing weights and ``d`` the decay, utility is the running
    mean of ``mean|h| mean|w|`` with bias correction; the mean activation of a unit that goes is
    added to the bias of its consumer.
    """

    replacement: float = 1e-4
    maturity: int = 100
    decay: float = 0.99

    def start(self, model: nn.Sequential, optimizer: torch.optim.Adam, seed: int) -> None:
        super().start(model, optimizer, seed)
        self.layers = hidden_layers(model)
        for layer in self.layers:
            layer.watch()
        self.utility = [torch.zeros(layer.n) for layer in self.layers]
        self.mean = [torch.zeros(layer.n) for layer in self.layers]
        self.age = [torch.zeros(layer.n) for layer in self.layers]
        self.due = [0.0] * len(self.layers)

    @torch.no_grad()
    def after_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for i, layer in enumerate(self.layers):
            activity, outgoing = layer.activity(), layer.outgoing()
            self.age[i] += 1
            importance = activity * outgoing.abs().mean((0, 2))
            self.utility[i].lerp_(importance, 1 - self.decay)
            self.mean[i].lerp_(activity, 1 - self.decay)
            mature = torch.where(self.age[i] > self.maturity)[0]
            self.due[i] += self.replacement * len(mature)
            if self.due[i] < 1 or not len(mature):
                continue
            count = min(int(self.due[i]), len(mature))
            self.due[i] -= count
            corrected = self.utility[i] / (1 - self.decay ** self.age[i])
            units = mature[corrected[mature].argsort(stable=True)[:count]]
            mean = self.mean[i][units] / (1 - self.decay ** self.age[i][units])
            layer.consumer.bias += (outgoing[:, units].sum(2) * mean).sum(1)
            layer.reset(units, self.optimizer, self.generator)
            for state in (self.utility[i], self.mean[i], self.age[i]):
                state[units] = 0


@dataclass
class SelfNormalizedResets(Arm):
    """Draws again a unit that is silent for longer than it used to be.

    Farias and Jozefiak (2025, arXiv 2410.20098), Algorithm 1: with ``A`` the time between two
    firings of the unit, reset it after ``a`` silent steps where ``P(A >= a) <= rejection``.  Time
    is counted in batches, a unit is silent where no image of the batch makes it fire, and ``P`` is
    the unit's own record since the start, the present silence included.
    """

    rejection: float = 0.02
    longest: int = 2000

    def start(self, model: nn.Sequential, optimizer: torch.optim.Adam, seed: int) -> None:
        super().start(model, optimizer, seed)
        self.layers = hidden_layers(model)
        for layer in self.layers:
            layer.watch()
        self.rows = [torch.arange(layer.n) for layer in self.layers]
        self.silent = [torch.zeros(layer.n, dtype=torch.long) for layer in self.layers]
        # How many silences of unit u lasted at least a batches.
        self.reached = [torch.zeros(layer.n, self.longest + 1) for layer in self.layers]

    @torch.no_grad()
    def after_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for i, layer in enumerate(self.layers):
            silent, rows, reached = self.silent[i], self.rows[i], self.reached[i]
            silent.add_(1).mul_(layer.activity() <= 0).clamp_(max=self.longest)
            reached[rows, silent] += 1
            chance = reached[rows, silent] / reached[:, 0].clamp(min=1)
            units = torch.where((silent > 0) & (chance <= self.rejection))[0]
            if len(units):
                layer.reset(units, self.optimizer, self.generator)
                silent[units] = 0


@dataclass
class Reorganized(Arm):
    """Ours: channels that respond alike merge, the places that become free are drawn again."""

    occasion: str | None = "hard"
    recipe: Recipe = field(default_factory=Recipe.preserving)

    def event(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
        return sum(self.reorganized(batches, self.recipe).values())

    def reorganized(
        self, batches: list[tuple[torch.Tensor, torch.Tensor]], recipe: Recipe
    ) -> dict[str, int]:
        """Reorganize; how many units became free in every group, by its weight's name."""
        seed = int(torch.randint(2**31 - 1, (), generator=self.generator))
        # Class means need samples of every class, so those at hand are numbered anew.
        seen = torch.cat([y for _, y in batches]).unique()
        batches = [(x, torch.searchsorted(seen, y)) for x, y in batches]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "nothing was freed")
            report = reorganize(
                self.model, batches, layers="all", recipe=replace(recipe, seed=seed),
                optimizer=self.optimizer,
            )  # fmt: skip
        return {group["group"]: group["new"] for group in report.to_dict()["groups"]}


@dataclass
class ReorganizedNormalized(Reorganized):
    """Ours in a network with layer normalization."""

    layer_norm = True


@dataclass
class AtRandom(Reorganized):
    """As many units of every layer as the recipe frees, chosen at random, with the same refit.

    A control of which units go.  A twin learns the same batches and is reorganized by the recipe:
    it says how many.
    """

    def start(self, model: nn.Sequential, optimizer: torch.optim.Adam, seed: int) -> None:
        super().start(model, optimizer, seed)
        twin = copy.deepcopy(model)
        self.twin = Reorganized(self.rate, self.occasion, self.strength, self.recipe)
        self.twin.start(twin, torch.optim.Adam(twin.parameters(), self.rate), seed)

    def after_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        twin = self.twin
        twin.optimizer.zero_grad()
        F.cross_entropy(twin.model(x), y).backward()
        twin.before_step()
        twin.optimizer.step()

    def event(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> int:
        freed = self.twin.reorganized(batches, self.recipe)
        widths = {name: len(value) for name, value in self.model.named_parameters()}
        ratio: dict[str, Any] = {name: 1 - n / widths[name] for name, n in freed.items()}
        return sum(
            self.reorganized(batches, replace(self.recipe, method="random", ratio=ratio)).values()
        )


@dataclass
class Stepwise(Arm):
    """Ours without being told where a task ends: a ``Reorganizer`` counted in optimizer steps.

    It judges by what was seen since the last event.  500 steps are no multiple of a task, so that
    events fall at all its times, in easy tasks as well.
    """

    ratio: float | str = 0.8
    every: int = 500

    def start(self, model: nn.Sequential, optimizer: torch.optim.Adam, seed: int) -> None:
        super().start(model, optimizer, seed)
        self.seed, self.reorganizer = seed, None

    def after_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        if self.reorganizer is None:
            self.reorganizer = Reorganizer(
                self.model, self.optimizer, layers="all", ratio=self.ratio, every_steps=self.every,
                seed=self.seed, example_inputs=x[:2],
            )  # fmt: skip
        self.reorganizer.step(x, y)


# --- units ----------------------------------------------------------------------------------


class HiddenLayer:
    """The units between a producer (convolution or linear layer) and its consumer."""

    def __init__(self, producer: nn.Module, relu: nn.Module, consumer: nn.Module) -> None:
        self.producer, self.relu, self.consumer = producer, relu, consumer
        self.n = producer.weight.shape[0]
        self.output = torch.zeros(1, self.n)

    def watch(self) -> None:
        """Keep the activations of every forward pass from here on."""

        def keep(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            if self.producer.training:
                self.output = output.detach()

        self.hook = self.relu.register_forward_hook(keep)

    def forget(self) -> None:
        self.hook.remove()

    def activity(self) -> torch.Tensor:
        """Mean activation ``(n,)`` of the last batch."""
        return self.output.mean((0, *range(2, self.output.ndim)))

    def outgoing(self) -> torch.Tensor:
        """The consumer's weights ``(outputs, n, places)``."""
        weight = self.consumer.weight
        return weight.unflatten(1, (self.n, -1)).flatten(2)

    @torch.no_grad()
    def reset(
        self, units: torch.Tensor, optimizer: torch.optim.Adam, generator: torch.Generator
    ) -> None:
        """Initial incoming weights, no bias, no outgoing weights, and no moments for these."""
        if not len(units):
            return
        _draw(self.producer, units, generator)
        self.producer.bias[units] = 0
        per_unit = self.consumer.weight.shape[1] // self.n
        columns = (units[:, None] * per_unit + torch.arange(per_unit)).flatten()
        self.consumer.weight[:, columns] = 0
        for name in ("exp_avg", "exp_avg_sq"):
            for parameter in (self.producer.weight, self.producer.bias):
                optimizer.state[parameter][name][units] = 0
            optimizer.state[self.consumer.weight][name][:, columns] = 0


def hidden_layers(model: nn.Sequential) -> list[HiddenLayer]:
    """Each ReLU's layer of a plain sequence of layers."""
    weighted = _weighted(model)
    relus = [m for m in model if isinstance(m, nn.ReLU)]
    return list(map(HiddenLayer, weighted, relus, weighted[1:]))


def _weighted(model: nn.Sequential) -> list[Any]:
    return [m for m in model if isinstance(m, (nn.Conv2d, nn.Linear))]


def _bound(layer: Any) -> float:
    """PyTorch's default: weights and bias uniform up to ``1 / sqrt(fan_in)``."""
    return 1 / math.sqrt(layer.weight[0].numel())


@torch.no_grad()
def _draw(layer: Any, units: torch.Tensor | slice, generator: torch.Generator) -> None:
    for parameter in (layer.weight, layer.bias):
        fresh = torch.empty_like(parameter[units])
        parameter[units] = fresh.uniform_(-_bound(layer), _bound(layer), generator=generator)


# --- the arms of the study ------------------------------------------------------------------

HALF = Recipe.preserving(ratio=0.5, optimizer="merge", refit="groups")
RESET: dict[str, Any] = {"optimizer": "reset"}

ARMS: dict[str, tuple[str, Callable[..., Arm], dict[str, Any]]] = {
    # name: (title, kind, what differs from its defaults beside the published optimum)
    "plain": ("plain, rate 1e-3", Arm, {}),
    "plain-slow": ("plain, rate 1e-4", Arm, {"rate": 1e-4}),
    "l2": ("L2", Arm, {}),
    "l2-init": ("L2-Init", L2Init, {}),
    "shrink-perturb": ("shrink and perturb", ShrinkPerturb, {}),
    "redo": ("ReDo", ReDo, {}),
    "cbp": ("continual backprop", ContinualBackprop, {}),
    "snr": ("self-normalized resets", SelfNormalizedResets, {}),
    "layer-norm": ("LayerNorm", LayerNorm, {}),
    "reset": ("full reset after every task", FullReset, {}),
    "ours-0.5": ("ours, `ratio=0.5`", Reorganized, {"recipe": HALF}),
    "ours-0.8": ("ours, `ratio=0.8`", Reorganized, {"recipe": replace(HALF, ratio=0.8)}),
    "ours-redundant": (
        'ours, `ratio="redundant"`', Reorganized, {"recipe": replace(HALF, ratio="redundant")},
    ),
    "ours-kmeans": (
        'ours, `method="kmeans"`, 0.5', Reorganized, {"recipe": replace(HALF, method="kmeans")},
    ),
    "ours-random": (
        'ours, `method="random"`, 0.5: no merging, the same refit', Reorganized,
        {"recipe": replace(HALF, method="random")},
    ),
    "ours-0.5-round": (
        "ours, `ratio=0.5`, after the easy tasks", Reorganized,
        {"recipe": HALF, "occasion": "round"},
    ),
    "optimizer-reset": ("new optimizer only, after the same tasks", OptimizerReset, {}),
    "ours-0.5-reset": (
        'ours, 0.5, `optimizer="reset"`', Reorganized, {"recipe": replace(HALF, **RESET)},
    ),
    "ours-0.8-reset": (
        'ours, 0.8, `optimizer="reset"`', Reorganized,
        {"recipe": replace(HALF, ratio=0.8, **RESET)},
    ),
    "ours-redundant-reset": (
        'ours, "redundant", `optimizer="reset"`', Reorganized,
        {"recipe": replace(HALF, ratio="redundant", **RESET)},
    ),
    "ours-0.8-sum-reset": (
        'ours, 0.8, summed, without least squares, `optimizer="reset"`', Reorganized,
        {"recipe": replace(HALF, ratio=0.8, outgoing="sum", **RESET)},
    ),
    "ours-dormant-reset": (
        'ours, only what is dormant, `optimizer="reset"`', Reorganized,
        {"recipe": replace(HALF, ratio="redundant", tolerance=0.0, **RESET)},
    ),
    "ours-random-reset": (
        'ours, `method="random"`, 0.5, `optimizer="reset"`', Reorganized,
        {"recipe": replace(HALF, method="random", **RESET)},
    ),
    "ours-kmeans-reset": (
        'ours, `method="kmeans"`, 0.5, `optimizer="reset"`', Reorganized,
        {"recipe": replace(HALF, method="kmeans", **RESET)},
    ),
    "ours-redundant-norm": (
        'ours, `ratio="redundant"`, with LayerNorm', ReorganizedNormalized,
        {"recipe": replace(HALF, ratio="redundant")},
    ),
    "later-layers": ("later-layer forgetting", LaterLayers, {}),
    "random-redundant": (
        'random channels, as many of every layer as with `ratio="redundant"`', AtRandom,
        {"recipe": replace(HALF, ratio="redundant")},
    ),
    "ours-0.8-steps": ("ours, 0.8, every 500 steps, not told of tasks", Stepwise, {}),
}  # fmt: skip

DORMANT = (0.05, 0.1, 0.2)

# Beside the published optimum, which is for a stream twice as long as the smaller one.
TRIED: dict[str, list[dict[str, Any]]] = {
    "plain": [{"rate": 3e-4}, {"rate": 3e-3}],
    "l2": [{"strength": 1e-4}, {"strength": 3e-4}, {"strength": 3e-3}],
    "l2-init": [{"strength": 3e-3}, {"strength": 3e-2}],
    "shrink-perturb": [{"shrink": 1e-3}, {"noise": 1e-3}, {"shrink": 1e-3, "noise": 1e-3}],
    "redo": [{"threshold": 0.03}, {"threshold": 0.1}, {"occasion": "hard"}],
    "cbp": [{"replacement": 1e-3}, {"replacement": 1e-2}],
    "snr": [{"rejection": 0.05}, {"rejection": 0.005}],
    "layer-norm": [{"rate": 3e-4}, {"rate": 1e-3}],
    "ours-0.8-reset": [{"ratio": 0.7}, {"ratio": 0.9}, {"dormant": 0.1}],
    "ours-redundant": [
        {"strength": 1e-4},
        {"strength": 3e-4},
        *({"dormant": share} for share in DORMANT),
    ],
    "ours-redundant-reset": [{"strength": 3e-3}, *({"dormant": share} for share in DORMANT)],
}


def variant(name: str, changes: dict[str, Any]) -> str:
    """The name of an arm with other settings.

    >>> variant("redo", {"threshold": 0.1})
    'redo,threshold=0.1'
    """
    return ",".join([name, *(f"{key}={value}" for key, value in changes.items())])


VARIANTS = {
    variant(name, changes): (name, changes) for name, tried in TRIED.items() for changes in tried
}
NAMES = [*ARMS, *VARIANTS]


def title(name: str) -> str:
    """What the page calls an arm.

    >>> title("redo,threshold=0.1"), title("plain,rate=0.003")
    ('ReDo, threshold 0.1', 'plain, rate 0.003')
    >>> title("l2,strength=0.0003"), title("ours-redundant,strength=0.0003")
    ('L2, strength 0.0003', 'ours, `ratio="redundant"`, with L2 of strength 0.0003')
    """
    base, changes = VARIANTS.get(name, (name, {}))
    text = ARMS[base][0]
    for key, value in changes.items():
        said = {"rate": ", rate 1e-3", "ratio": ", 0.8"}.get(key, "")
        added = "with L2 of " if key == "strength" and base.startswith("ours") else ""
        new = f", {value}" if key == "ratio" else f", {added}{key} {value}"
        text = text.replace(said, new) if said and said in text else text + new
    return text


def make(name: str, published: str) -> Arm:
    """The arm of that name at its optimum on the stream ``published``, or with other settings.

    >>> make("l2", "Permuted MNIST").strength
    0.01
    >>> make("ours-0.8-reset,ratio=0.7", "5+1 CIFAR").recipe.ratio
    0.7
    """
    base, changes = VARIANTS.get(name, (name, {}))
    _, kind, own = ARMS[base]
    own = {**PUBLISHED[published].get(base, {}), **own}
    of_recipe = {key: changes[key] for key in ("ratio", "dormant") if key in changes}
    if of_recipe:
        changes = {"recipe": replace(own["recipe"], **of_recipe)}
    return kind(**{**own, **changes})


def settings(arm: Arm) -> Iterator[tuple[str, Any]]:
    """What decides an arm, ready for JSON."""
    for name in arm.__dataclass_fields__:
        value = getattr(arm, name)
        yield name, value.to_dict() if isinstance(value, Recipe) else value
