"""After a trace, a collection, a change or a failed call, all beside the weights is as it was.

Models count their calls, keep a grid beside the shape that it was made for, move a minimum, observe
ranges or renormalize a table, in evaluation mode as well.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, deque

import pytest

torch = pytest.importorskip("torch")
from rejuvenet.adapters.torch import arrange, collect, reorganize, trace  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402


class Cache:
    """An object that is no module."""

    def __init__(self):
        self.calls, self.seen, self.inner = 0, [], {"last": None}


class Everything(nn.Module):
    """State of every form, changed by every pass."""

    def __init__(self):
        super().__init__()
        self.c = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.h = nn.Conv2d(8, 4, 3)
        self.e = nn.Embedding(4, 4, max_norm=0.5)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("lowest", torch.full((), torch.inf))
        self.register_buffer("range", torch.zeros(2), persistent=False)
        self.register_buffer("queue", torch.zeros(4, 4))
        self.shape, self.grid, self.calls = None, torch.empty(0), 0
        self.history, self.by_size, self.order = [], {}, OrderedDict(a=1, b=2)
        self.nested, self.last, self.names = {"deep": [[]]}, deque(maxlen=3), {"x"}
        self.cache = Cache()
        self.error = None

    def forward(self, x):
        x -= 0.01  # its input
        a = self.c(x)
        y = self.h(a)
        self.count += 1
        self.range = torch.stack([y.min(), y.max()])
        if y.shape[1:] != self.shape:
            self.shape, self.grid = y.shape[1:], torch.arange(y.shape[-1], dtype=y.dtype)
        self.calls += 1
        self.history.append(self.calls)
        self.by_size[len(x)] = a
        self.order.move_to_end("a")
        self.nested["deep"][0].append(y)
        self.last.append(a)
        self.names.add(self.calls)
        self.cache.calls += 1
        self.cache.seen.append(a)
        self.cache.inner["last"] = y
        self.new_attribute = y
        torch.rand(3)
        with torch.no_grad():
            torch.minimum(self.lowest, y.min(), out=self.lowest)
            self.queue[int(self.count) % 4] = y.mean((0, 2, 3))
            self.h.bias.data.clamp_(-1e-3, 1e-3)
            self.c[0].bias.data = self.c[0].bias.data * 0.5
        if self.error is not None:
            raise self.error
        return (y + self.grid).mean((2, 3)) + self.e(torch.arange(4)).mean(0)


def described(model, x):
    """All state, as values."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, dict):
            return [(key, plain(part)) for key, part in value.items()]
        if isinstance(value, (list, tuple, deque)):
            return [plain(part) for part in value]
        return plain(vars(value)) if isinstance(value, Cache) else repr(value)

    modules = {
        name: [
            (key, plain(value)) for key, value in vars(module).items()
            if key not in ("_parameters", "_modules")
        ]
        for name, module in model.named_modules()
    }  # fmt: skip
    return modules, x.tolist(), torch.get_rng_state().tolist()


BATCHES = [(torch.randn(6, 3, 9, 9), torch.arange(6) % 2) for _ in range(2)]


def traced(model):
    trace(model, BATCHES[0][0])


def collected(model):
    collect(trace(model, BATCHES[0][0][:2]), BATCHES, ["c.0"])


def arranged(model):
    arrange(model, BATCHES[0][0], order="random", groups=["c.0"])


def reorganized(model):
    reorganize(model, BATCHES, layers=["c.0"], recipe=Recipe.preserving(batchnorm="merge"))


def with_gradients(model):
    recipe = Recipe.preserving(init="gradient", batchnorm="merge")
    reorganize(model, BATCHES, layers=["c.0"], recipe=recipe)


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("call", [traced, collected, arranged, reorganized, with_gradients])
def test_nothing_but_weights_changes(call, used_before):
    torch.manual_seed(0)
    model = Everything()
    model.train()
    if used_before:
        model(torch.randn(2, 3, 9, 9))
    before = described(model, BATCHES[0][0])
    bias, table = model.h.bias.clone(), model.e.weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(model)
    if call in (traced, collected):
        assert described(model, BATCHES[0][0]) == before
    else:  # its own weights are changed, and statistics that go along with them
        after = described(model, BATCHES[0][0])
        for found in (before, after):
            found[0].pop("c.1")
        assert after == before
    assert torch.equal(model.e.weight, table)
    if call is not with_gradients and call is not reorganized:
        assert torch.equal(model.h.bias, bias)


@pytest.mark.parametrize("call", [traced, arranged, reorganized])
def test_nothing_changes_in_a_call_that_fails(call):
    torch.manual_seed(0)
    model = Everything()
    model.error = KeyError("out of order")
    before, weights = described(model, BATCHES[0][0]), copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError, match="out of order"):
        call(model)
    assert described(model, BATCHES[0][0]) == before
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_observers_of_quantization_see_nothing():
    from torch.ao import quantization

    stubs = quantization.QuantStub(), quantization.DeQuantStub()
    model = nn.Sequential(stubs[0], nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), stubs[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        model = quantization.prepare_qat(model.train())
        model(torch.randn(4, 3, 9, 9))
        before = copy.deepcopy(model.state_dict())
        found = trace(model, BATCHES[0][0]).groups
        quantized = quantization.convert(copy.deepcopy(model).eval())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(group.frozen for group in found)
    with pytest.raises(ValueError, match=r"channel group"):
        arrange(quantized, BATCHES[0][0], order="random")
