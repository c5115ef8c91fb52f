"""An error in any forward pass of a call leaves model, optimizer and averages as they were.

Every call of every module within ``arrange``, ``reorganize``, ``collect`` and an event of
``Reorganizer`` is a point at which the model itself may fail.  By hand, at all of them::

    python tests/reliability/test_forward_faults.py
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, arrange, collect, reorganize, trace  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402

ERRORS = (RuntimeError("broken"), MemoryError(), KeyboardInterrupt())


class Failing(nn.Identity):
    """Counts the calls of all of its kind, copies included, and raises ``error`` at one of them."""

    count, at, error = 0, 0, ERRORS[0]

    def forward(self, x):
        Failing.count += 1
        if Failing.count == Failing.at:
            raise Failing.error
        return x


class Network(nn.Module):
    """A residual block that can fail at four places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), Failing(), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), Failing(), nn.ReLU())
        self.back = nn.Sequential(nn.Conv2d(8, 8, 1), Failing())
        self.head = nn.Sequential(Failing(), nn.Linear(8, 3))

    def forward(self, x):
        h = self.stem(x)
        return self.head((h + self.back(self.inner(h))).mean((2, 3)))


def prepared() -> tuple:
    """A network in training, its optimizer and its average, and calibration data."""
    torch.manual_seed(0)
    model = Network()
    batches = [(torch.randn(12, 3, 7, 7), torch.arange(12) % 3) for _ in range(3)]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer, copy.deepcopy(model), batches


def in_all(**options) -> Callable:
    def call(model, optimizer, average, batches):
        recipe = Recipe.preserving(ratio=0.5, optimizer="merge", **options)
        reorganize(model, batches, "all", recipe, optimizer=optimizer, ema=average)

    return call


def event(model, optimizer, average, batches):
    Reorganizer(model, optimizer, batches, every=1, layers="all", ema=average).step(0)


CALLS = {
    "collect": lambda model, optimizer, average, batches: collect(
        trace(model, batches[0][0]), batches
    ),
    "arrange": lambda model, optimizer, average, batches: arrange(
        model, batches[0][0], groups="all", order="random", optimizer=optimizer, ema=average
    ),
    "reorganize": in_all(),
    "with gradients": in_all(init="gradient"),
    "event": event,
}


def held(model, optimizer, average) -> list:
    """Everything that must stay, as bytes, with identities of parameters and modes of modules."""
    tensors = [
        *model.state_dict().values(), *average.state_dict().values(),
        *(value for state in optimizer.state.values() for value in state.values()),
        *(p.grad for p in model.parameters() if p.grad is not None),
    ]  # fmt: skip
    return [
        [t.detach().numpy().tobytes() for t in tensors],
        [id(p) for p in model.parameters()],
        [(m.training, len(m._forward_hooks), sorted(vars(m))) for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    ]


def faults(name: str, stride: int) -> Iterator[bool]:
    """Whether everything stayed, for every ``stride``-th call of a module within a call of ours.

    Or was done: ``trace`` runs a model again that fails the first time, in another way.
    """
    counted = prepared()
    Failing.count = Failing.at = 0
    CALLS[name](*counted)
    done = held(*counted[:3])
    for at in range(1, Failing.count + 1, stride):
        Failing.at = 0
        everything = prepared()
        before = held(*everything[:3])
        Failing.count, Failing.at = 0, at
        Failing.error = error = ERRORS[at % len(ERRORS)]
        try:
            CALLS[name](*everything)
        except type(error):
            yield held(*everything[:3]) == before
        else:
            yield held(*everything[:3])[0] == done[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_an_error_in_a_forward_pass_changes_nothing(name):
    found = list(faults(name, 7))
    assert len(found) > 1
    assert all(found)


def main() -> None:
    """All points; writes ``results/forward_faults.json``."""
    warnings.simplefilter("ignore")
    result = {}
    for name in CALLS:
        found = list(faults(name, 1))
        result[name] = {"faults": len(found), "unchanged": sum(found)}
        print(name, result[name], flush=True)
    out = Path(__file__).parent / "results" / "forward_faults.json"
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
