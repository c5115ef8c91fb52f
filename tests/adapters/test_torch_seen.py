"""What a model does beside its layers: tensors that it makes, structures that it returns, indices
that it computes, values that Python reads, operators that are none of PyTorch's.

Whatever it is, a permutation of all channels changes no output, or is refused and changes nothing;
and merging channels that are copies of others changes no output.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from rejuvenet.adapters.torch import arrange, collect, reorganize, trace  # noqa: E402
from rejuvenet.adapters.torch.nested import tensors_within  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

DOUBLE = torch.double


class Model(nn.Module):
    """A block of 8 channels and a head, and what a function makes of them."""

    def __init__(self, function: Callable, **modules: nn.Module):
        super().__init__()
        self.function = function
        self.a, self.h = block(3, 8), head(8)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def block(n, m):
    return nn.Sequential(nn.Conv2d(n, m, 3, padding=1), nn.BatchNorm2d(m), nn.ReLU())


def head(n):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 5))


def images(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, dtype=DOUBLE, generator=generator)


def outputs(model, x):
    with torch.no_grad():
        return [t.clone() for t in tensors_within(model(x))]


def largest_change(before, after):
    pairs = zip(before, after, strict=True)
    return max(float((a - b).abs().max() / (a.abs().max() + 1e-30)) for a, b in pairs)


# --- tensors that are made in the pass -----------------------------------------------------------


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x,
        lambda x: x + torch.zeros((), dtype=DOUBLE),
        lambda x: x + torch.arange(x.shape[-1], dtype=DOUBLE) * 0.01,
        lambda x: x + torch.zeros_like(x),
        lambda x: x * torch.ones(1, dtype=DOUBLE),
        lambda x: x * torch.full((1,), 2.0, dtype=DOUBLE) + 0 * torch.rand_like(x),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) + torch.linspace(0, 1, 8),
        lambda x: torch.stack([x, torch.eye(8, dtype=DOUBLE).expand_as(x)]).sum(0),
    ],
)  # fmt: skip
def test_copies_merge_exactly_whatever_the_pass_makes(between):
    torch.manual_seed(0)
    model = Model(lambda s, x: s.h(s.b(between(s.a(x)))), b=block(8, 8)).to(DOUBLE).eval()
    with torch.no_grad():
        for tensor in (*model.a[0].parameters(), *model.a[1].state_dict().values()):
            if tensor.ndim:
                tensor[4:] = tensor[:4]
    x = images()
    before = outputs(model, x)
    batches = [(images(n, n), torch.arange(n) % 2) for n in (4, 5, 1)]
    reorganize(model, batches, layers=["a.0"], recipe=Recipe.preserving(ratio=0.5))
    assert largest_change(before, outputs(model, x)) < 1e-9


class Recurrent(nn.Module):
    def __init__(self, kind, batch_first):
        super().__init__()
        self.a, self.h = nn.Linear(4, 6), nn.Linear(16, 3)
        self.r = kind(6, 8, bidirectional=True, batch_first=batch_first)
        self.first = batch_first

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.h(self.r(x if self.first else x.transpose(0, 1))[0]).sum(1 - self.first)


class ConvolutionalRecurrent(nn.Module):
    """Steps of time along the width, first in the tensors of the recurrent layers."""

    def __init__(self):
        super().__init__()
        self.c, self.a = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 6)
        self.r, self.h = nn.GRU(6, 8, bidirectional=True), nn.Linear(16, 3)

    def forward(self, x):
        x = self.c(x[:, None]).relu().mean(3).permute(2, 0, 1)
        return self.h(self.r(torch.relu(self.a(x)))[0])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.h = nn.Linear(4, 6), nn.Linear(6, 3)
        self.t = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, x):
        return self.h(self.t(torch.relu(self.a(x)))).mean(1)


@pytest.mark.parametrize(
    ("traced_with", "dtype"), [(1, DOUBLE), (2, torch.float32), (5, torch.float32)]
)
@pytest.mark.parametrize(
    "model",
    [
        lambda: Recurrent(nn.LSTM, True),
        lambda: Recurrent(nn.LSTM, False),
        lambda: Recurrent(nn.GRU, True),
        lambda: Recurrent(nn.RNN, False),
        ConvolutionalRecurrent,
        Encoder,
    ],
    ids=["lstm", "lstm, time first", "gru", "rnn, time first", "crnn", "encoder"],
)
def test_class_means_are_those_of_the_layer_for_any_batch(model, traced_with, dtype):
    """Also where time comes before the samples, and where the last batch is a single sample."""
    torch.manual_seed(0)
    model = model().to(dtype).eval()
    x, y = torch.randn(11, 7, 4, dtype=dtype), torch.arange(11) % 2
    shown = {}
    hook = model.a.register_forward_hook(lambda _, __, out: shown.update(a=torch.relu(out)))
    if isinstance(model, Encoder) and traced_with > 1:  # the last layer that reads these channels
        hook.remove()
        hook = model.h.register_forward_hook(lambda _, given, __: shown.update(a=given[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    if isinstance(model, ConvolutionalRecurrent):
        shown["a"] = shown["a"].transpose(0, 1)
    traced = trace(model, x[:traced_with])
    batches = [(x[i:j], y[i:j]) for i, j in ((0, 5), (5, 10), (10, 11))]
    if traced.group("a").tap is None:  # one sample may lie anywhere
        assert traced_with == 1
        pytest.skip("refused with a reason")
    found = collect(traced, batches, ["a"])["a.weight"].Q
    wanted = np.stack([shown["a"][y == c].mean(0).numpy().T for c in range(2)])
    # One tensor after the other of those that describe the group.
    parts = np.split(found.reshape(2, 6, -1), found.size // wanted.size, axis=2)
    assert min(np.abs(part - wanted).max() for part in parts) < 1e-6
    reorganize(traced, batches, layers="all", recipe=Recipe.preserving(ratio=0.5))


def test_a_pass_that_takes_another_course_is_refused_where_operators_are_alike():
    class Other(Model):
        course = "b"

    model = Other(lambda s, x: s.h(getattr(s, s.course)(s.a(x))), b=block(8, 8), c=block(8, 8))
    model = model.to(DOUBLE).eval()
    traced = trace(model, images())
    Other.course = "c"
    with pytest.raises(RuntimeError, match="trace the model again"):
        collect(traced, [(images(), torch.arange(4) % 2)], ["b.0"])


# --- what is seen, and what is frozen ------------------------------------------------------------


@dataclasses.dataclass
class Features:
    inner: Any


class Plain:
    def __init__(self, tensor):
        self.kept = {"x": [tensor]}


class Slots:
    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor


class Pair(NamedTuple):
    first: Any
    second: Any


class Sub(torch.Tensor):
    pass


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@torch.library.custom_op("seen::dropout", mutates_args=())
def dropout(x: torch.Tensor) -> torch.Tensor:
    return x * torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None, None]


@torch.library.custom_op("seen::scaled", mutates_args=("x",))
def scaled(x: torch.Tensor) -> None:
    x.mul_(torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None, None])


def ranked(s, x):
    a = s.a(x)
    return s.h(a[:, a.mean((0, 2, 3)).argsort(descending=True).tolist()])


def autocast(s, x):
    with torch.autocast("cpu", torch.bfloat16):
        low = s.b(s.a(x)).mean()
    return s.h(s.a(x)) + 0 * low


def in_place(write):
    def function(s, x):
        a = s.a(x).clone()
        write(a)
        return s.h(a)

    return function


GATE = nn.Conv2d(8, 6, 1)
MOVED = {  # the channels of `a` are permuted
    "dataclass": (lambda s, x: (s.g(s.a(x)), Features(s.k(s.a(x)))), {"g": GATE, "k": GATE}),
    "object": (lambda s, x: Features(Plain(s.g(s.a(x)))), {"g": GATE}),
    "slots": (lambda s, x: Slots(s.g(s.a(x))), {"g": GATE}),
    "branch by .numpy()": (
        lambda s, x: s.h(s.b(a) if (a := s.a(x)).mean().numpy() > 1e-3 else s.c(a)),
        {"b": block(8, 8), "c": GATE},
    ),
    "branch by if": (
        lambda s, x: s.h(s.b(a) if (a := s.a(x)).mean() > 1e-3 else s.c(a)),
        {"b": block(8, 8), "c": GATE},
    ),
    "float": (lambda s, x: s.h((a := s.a(x)) * float(a.mean())), {}),
    "cast": (lambda s, x: s.h((a := s.a(x)) * (a > 0.2).to(DOUBLE)), {}),
    "std": (lambda s, x: s.h((a := s.a(x)) * (1 + a.std((2, 3), keepdim=True))), {}),
    "nonzero": (lambda s, x: s.h((a := s.a(x)) * len((a > 0.2).nonzero())), {}),
    "chosen samples": (
        lambda s, x: s.h((a := s.a(x)).index_select(0, s.h(a)[:, 0].argsort())), {}
    ),
    "chosen pixels": (
        lambda s, x: s.h(
            torch.take_along_dim(
                s.a(x).flatten(2), s.k(s.a(x)).flatten(2).argsort(2), 2
            ).unflatten(2, (8, 8))
        ),
        {"k": nn.Conv2d(8, 8, 1)},
    ),
    "checkpoint": (
        lambda s, x: s.h(checkpoint(s.b, s.a(x), use_reentrant=False)),
        {"b": block(8, 8)},
    ),
    "custom function": (lambda s, x: s.h(Doubled.apply(s.a(x))), {}),
    "vmap": (
        lambda s, x: s.h(torch.func.vmap(lambda t: s.b(t[None])[0])(s.a(x))),
        {"b": GATE, "h": head(6)},
    ),
    "subclass": (lambda s, x: s.h(s.a(x.as_subclass(Sub))), {}),
    "subclass and values": (
        lambda s, x: s.h((a := s.a(x).as_subclass(Sub)) * a.mean().tolist()), {}
    ),
    "autocast": (autocast, {"b": block(8, 8)}),
}  # fmt: skip
FROZEN = {  # they are not, with this reason
    "intermediate": (lambda s, x: Pair(a := s.a(x), s.h(a)), {}, "reaches an output"),
    "embedding of argmax": (
        lambda s, x: s.h((a := s.a(x)) * s.e(s.g(a).argmax(1)).permute(0, 3, 1, 2)),
        {"g": GATE, "e": nn.Embedding(6, 8)},
        "read position by position",  # of the classes that are looked up
    ),
    "ranked by .tolist()": (ranked, {}, "read position by position"),
    "through numpy": (
        lambda s, x: s.h(torch.from_numpy(np.sort(np.asarray(s.a(x)), 1))), {}, "read by Python"
    ),
    "weights in Python": (
        lambda s, x: s.h(s.a(x) * sum(s.a[0].weight[:, 0, 0, 0].tolist())), {}, "read by Python"
    ),
    "deepcopy": (lambda s, x: s.h(copy.deepcopy(s.a(x))), {}, "read by Python"),
    "custom operator": (
        lambda s, x: s.h(torch.ops.seen.dropout(s.a(x))), {}, "seen::dropout is not understood"
    ),
    "custom operator in place": (in_place(scaled), {}, "seen::scaled is not understood"),
    "foreach": (
        in_place(lambda a: torch._foreach_mul_([a], [torch.arange(8)[None, :, None, None]])),
        {}, "_foreach_mul_ is not understood",
    ),
    "ranked subclass": (lambda s, x: ranked(s, x.as_subclass(Sub)), {}, "position by position"),
    "sorted": (lambda s, x: s.h(s.a(x).sort(1)[0]), {}, "read position by position"),
}  # fmt: skip
REFUSED = {
    "generator": (lambda s, x: (t for t in [s.h(s.a(x))]), "got a generator"),
    "function": (lambda s, x: s.h(s.a(x)).sum, "cannot be found"),
    "cond": (
        lambda s, x: torch.cond(x.mean() > 0, lambda t: s.h(s.a(t)), lambda t: s.h(s.a(-t)), (x,)),
        "branches cannot be seen",
    ),
}  # fmt: skip


def made(function, modules):
    torch.manual_seed(0)
    return copy.deepcopy(Model(function, **modules)).to(DOUBLE).eval()


@pytest.mark.parametrize("kind", MOVED)
def test_what_is_seen_moves_and_changes_nothing(kind):
    model, x = made(*MOVED[kind]), images()
    before, weights = outputs(model, x), model.a[0].weight.clone()
    arrange(model, x, order="random")
    assert not torch.equal(model.a[0].weight, weights)
    assert largest_change(before, outputs(model, x)) < 1e-9


@pytest.mark.parametrize("kind", FROZEN)
def test_what_cannot_be_followed_is_frozen_with_a_reason(kind):
    function, modules, reason = FROZEN[kind]
    model, x = made(function, modules), images()
    before, weights = outputs(model, x), copy.deepcopy(model.state_dict())
    said = " ".join(g.frozen or "" for g in trace(model, x).groups)
    try:
        arrange(model, x, order="random")
    except ValueError as error:
        said += str(error)
        assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert reason in said
    assert largest_change(before, outputs(model, x)) < 1e-9


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_looked_into_is_refused(kind):
    function, reason = REFUSED[kind]
    with pytest.raises(ValueError, match=reason):
        arrange(made(function, {}), images(), order="random")


# --- models that cannot be traced ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: torch.jit.script(block(3, 8)), "TorchScript"),
        (lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3)), nn.ReLU()), "TorchScript"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d()), "lazy"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, device="meta")), "meta device"),
    ],
)
def test_models_without_operators_or_values_are_refused_in_one_sentence(model, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model()
    data = [(torch.zeros(4, 3, 8, 8), torch.arange(4) % 2)]
    with pytest.raises(ValueError, match=reason):
        reorganize(model, data)
    with pytest.raises(ValueError, match=reason):
        trace(model, data[0][0])


def test_a_model_for_batches_of_one_size_is_traced_with_a_whole_batch():
    model = made(lambda s, x: s.k(s.a(x).view(6, -1)), {"k": nn.Linear(512, 3)})
    batches = [(images(6, n), torch.arange(6) % 2) for n in range(2)]
    report = reorganize(model, batches, layers="all")
    assert report.groups[0].survivors < 8
    with pytest.raises(RuntimeError, match="invalid for input"):
        trace(model, images(2))
    with pytest.raises(RuntimeError, match="expected input"):
        trace(model, torch.zeros(6, 4, 8, 8, dtype=DOUBLE))


@pytest.mark.parametrize("error", [MemoryError("none"), torch.OutOfMemoryError("none")])
def test_a_model_runs_once_more_only_where_it_looked_at_values(error):
    runs = []

    def fail(s, x):
        runs.append(1)
        raise error

    with pytest.raises(type(error)):
        trace(made(fail, {}), images())
    assert len(runs) == 1
