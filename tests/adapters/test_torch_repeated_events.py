"""Events that repeat: moments stay within what gradients are, weights do not grow."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import reorganize  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.optim import swa_utils  # noqa: E402

# Optimizers that only watch (a rate of zero) beside the one that trains: one run for all of them.
WATCHING = {
    "sgd": lambda p: torch.optim.SGD(p, 0.0, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.0, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.0),
    "nadam": lambda p: torch.optim.NAdam(p, 0.0),
    "radam": lambda p: torch.optim.RAdam(p, 0.0),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.0, momentum=0.9, centered=True),
    "adamax": lambda p: torch.optim.Adamax(p, 0.0),
    "adadelta": lambda p: torch.optim.Adadelta(p, 0.0),
    "rprop": lambda p: torch.optim.Rprop(p, 0.0, step_sizes=(0.0, 1e-9)),
}

MERGE = {"optimizer": "merge"}
RECIPES = {
    "preserving": Recipe.preserving(**MERGE),
    "sum": Recipe.preserving(outgoing="sum", merge="medoid", method="kmeans", **MERGE),
    "mean": Recipe.preserving(outgoing="mean", **MERGE),
    "random with refit": Recipe.preserving(method="random", **MERGE),
    "paper": Recipe.paper(**MERGE),
    "reset": Recipe.preserving(),
    "keep": Recipe.preserving(optimizer="keep"),
    "redo": Recipe.comparison("redo", **MERGE),
}


@pytest.mark.parametrize(
    ("name", "activation", "events"),
    [
        ("preserving", nn.ReLU, 12),
        ("preserving", nn.GELU, 6),
        *((name, nn.ReLU, 6) for name in RECIPES if name != "preserving"),
        *(pytest.param(n, nn.ReLU, 100, marks=pytest.mark.nightly) for n in RECIPES),
    ],
)
def test_moments_and_weights_stay_sane(name, activation, events):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 10), activation(), nn.Linear(10, 10), activation(), nn.Linear(10, 3)
    )
    training = torch.optim.Adam(model.parameters(), 3e-3)
    watching = {key: make(model.parameters()) for key, make in WATCHING.items()}
    average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    largest, heaviest, steps = 0.0, 0.0, 0
    for event in range(events):
        x, y = torch.randn(40, 6), torch.arange(40) % 3
        x += y[:, None] * torch.randn(6)
        for _ in range(5 if event % 3 else 0):  # events also follow one another at once
            for optimizer in (training, *watching.values()):
                optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            largest = max(largest, *(float(p.grad.abs().max()) for p in model.parameters()))
            for optimizer in (*watching.values(), training):
                optimizer.step()
            average.update_parameters(model)
            steps += 1
        recipe = RECIPES[name]
        optimizers = [training, *watching.values()]
        reorganize(model, [(x, y)], "all", recipe, optimizers, ema=average, progress=False)
        weights = [p.detach().abs().max() for p in model.parameters()]
        heaviest = max(heaviest, *map(float, weights))
        assert max(float(p.detach().abs().max()) for p in average.parameters()) <= 2 * heaviest
        assert heaviest < 2.5
        if not steps:
            continue
        bounds = {
            "exp_avg_sq": largest**2, "max_exp_avg_sq": largest**2, "square_avg": largest**2,
            "sum": steps * largest**2, "exp_inf": largest + 1e-6, "exp_avg": 4 * largest,
            "grad_avg": 4 * largest, "prev": 4 * largest, "step_size": 1e-9, "acc_delta": 1.0,
        }  # fmt: skip
        for key, optimizer in {"training": training, **watching}.items():
            for state in optimizer.state.values():
                for what, value in state.items():
                    if not isinstance(value, torch.Tensor) or value.ndim == 0:
                        continue
                    # Momentum gathers gradients (1 / (1 - 0.9)), RMSprop's gathers steps.
                    momentum = 10 / math.sqrt(0.01) if key == "rmsprop" else 40 * largest
                    bound = bounds.get(what, momentum)
                    size = float(value.abs().max())
                    assert np.isfinite(size), (event, key, what)
                    assert size <= bound * (1 + 1e-5), (event, key, what)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_weights_fitted_to_products_stay_sane(activation):
    """Of GELU no scale can be moved back: without a bound they grow a thousandfold."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 10), activation(), nn.Linear(10, 10), activation(), nn.Linear(10, 3)
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for event in range(30):
        x, y = torch.randn(40, 6), torch.arange(40) % 3
        x += y[:, None] * torch.randn(6)
        for _ in range(5 if event % 3 else 0):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        recipe = Recipe.preserving(refit="products", optimizer="merge")
        reorganize(model, [(x, y)], "all", recipe, optimizer)
        assert max(float(p.detach().abs().max()) for p in model.parameters()) < 10.0
