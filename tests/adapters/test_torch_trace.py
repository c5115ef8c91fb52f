"""Tracing PyTorch modules: what is understood, what is frozen, and that nothing is disturbed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from rejuvenet.adapters.torch import arrange, observe, reorganize, trace  # noqa: E402
from rejuvenet.adapters.torch.edit import Edit  # noqa: E402
from rejuvenet.graph import Recipe, arrange_plan, transform  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from exactness import convolutions, orders, verify  # noqa: E402
from small_networks import small_network  # noqa: E402

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def check(model, *inputs, moved=None):
    torch.manual_seed(0)
    verdict = verify(model, *(inputs or (IMAGE,)))
    assert verdict.outcome == "right", verdict
    assert verdict.moved == (verdict.convolutions if moved is None else moved), verdict
    return verdict


class Functional(nn.Module):
    """Control flow, functional calls, views, in-place operators, a module called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Parameter(torch.randn(12, 16, 1, 1))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.head = nn.Linear(12 * 16, 5)

    def forward(self, x):
        x = F.relu(self.a(x), inplace=True)
        for _ in range(2):
            x = x + self.b(x) * self.scale
        y = x.clone()
        y += x
        y[:, :4].mul_(2).relu_() if x.shape[0] > 100 else y.relu_()
        left, right = y.chunk(2, dim=1)
        y = torch.cat([torch.cat([left.abs(), right.neg()], 1), F.hardswish(x)], 1)
        y = F.conv2d(F.adaptive_avg_pool2d(y, 4), self.c)
        return self.head(torch.flatten(y, 1))


def test_whatever_python_does_is_seen():
    check(Functional())


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.act = nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.shuffled = nn.Conv2d(6, 16, 3)
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.act(self.norm(self.a(x)))
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.last(F.pixel_shuffle(self.shuffled(self.up(x)), 2)).mean((2, 3))


def test_gates_group_norm_transposed_convolution_and_pixel_shuffle():
    check(Gated(), moved=5)  # the last one makes the outputs


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[rank]
    pool = {1: nn.AvgPool1d, 3: nn.AvgPool3d}[rank]
    model = nn.Sequential(
        conv(2, 6, 3), norm(6), nn.ReLU(), pool(2), conv(6, 6, 1, groups=2), conv(6, 3, 1),
        nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip
    x = torch.randn(1, 2, *([10] * rank))
    model(x)
    check(model, x)


def test_parametrized_weights():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3)),
        nn.Flatten(),
    )
    model.eval()
    traced = trace(model, IMAGE)
    group = traced.groups[0]
    assert group.frozen is None
    names = {m.weight for m in group.members}
    assert "0.parametrizations.weight.original0" in names
    assert "2.parametrizations.weight.original1" in names


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.block(x)[:, 0])


def test_transformer_blocks():
    verdict = check(Attention())
    assert "block.linear1.weight" not in verdict.frozen
    traced = trace(Attention().eval(), IMAGE)
    heads = traced.group("block.self_attn.in_proj_weight").exchangeable
    assert {len(s) for s in heads} == {4}


class Experts(nn.Module):
    """Every token goes through some small networks, whose weights are one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.h = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.w, self.v = nn.Parameter(torch.randn(5, 8, 6)), nn.Parameter(torch.randn(5, 6, 8))

    def forward(self, x):
        x = self.a(x).flatten(2).transpose(1, 2)
        y = torch.einsum("btd,edh->bteh", x, self.w).relu()
        return self.h(x + torch.einsum("bteh,ehd->btd", y, self.v)).mean(1)


class DynamicKernel(nn.Module):
    """The kernel of each image is a mixture of several, which are one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.r, self.h = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Conv2d(6, 3, 1)
        self.w = nn.Parameter(torch.randn(4, 6, 8, 3, 3))

    def forward(self, x):
        x = self.a(x).relu()
        kernels = (self.r(x.mean((2, 3))).softmax(1) @ self.w.flatten(1)).view(-1, 8, 3, 3)
        y = F.conv2d(x.flatten(0, 1)[None], kernels, groups=len(x))
        return self.h(y.unflatten(1, (len(x), 6))[0])


@pytest.mark.parametrize(
    ("network", "moved"),
    [(Experts, {"a": 8, "w[0:5]": 5, "w[0:6]": 6}), (DynamicKernel, {"a": 8, "r": 4, "w[0:6]": 6})],
)
def test_axes_of_a_weight_that_a_product_flattens_keep_apart(network, moved):
    torch.manual_seed(0)
    check(network(), moved=1)
    groups = trace(network(), IMAGE).groups
    found = {g.name.removesuffix(".weight"): len(g.exchangeable[0]) for g in groups if not g.frozen}
    assert found == moved


class SharedKeys(nn.Module):
    """Two heads read each key (grouped-query attention)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.q, self.kv, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        q = self.q(x).view(-1, 16, 4, 4).transpose(1, 2)
        k, v = self.kv(x).view(-1, 16, 2, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.head(self.out(y.transpose(1, 2).flatten(2)).mean(1))


def test_heads_that_share_keys():
    check(SharedKeys(), moved=1)
    traced = trace(SharedKeys().eval(), IMAGE)
    sets = [s.tolist() for s in traced.group("q.weight").exchangeable]
    assert sets == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert traced.group("q.weight:sets").channels == 2


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 6, 3), nn.Conv1d(6, 6, 3)
        self.rnn = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        return self.rnn(self.b(self.a(x)).transpose(1, 2))[0][:, -1]


class Pairs(nn.Module):
    """A layer that multiplies what two others make."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3)
        self.m, self.head = nn.Bilinear(8, 6, 7), nn.Linear(7, 4)

    def forward(self, x):
        a, b = (layer(x).relu().mean((2, 3)) for layer in (self.a, self.b))
        return self.head(self.m(a, b).relu())


def test_bilinear_layers():
    check(Pairs())
    groups = {group.name: group for group in trace(Pairs(), IMAGE).groups}
    assert [groups[n].channels for n in ("a.weight", "b.weight", "m.weight")] == [8, 6, 7]
    assert not any(groups[n].frozen for n in ("a.weight", "b.weight", "m.weight"))
    model, images = Pairs(), torch.randn(40, 3, 8, 8)
    for layer in (model.a, model.b):
        for tensor in layer.parameters():  # every channel twice
            tensor.data[len(tensor) // 2 :] = tensor.data[: len(tensor) // 2]
    recipe = Recipe.preserving(ratio=0.5, outgoing="sum")
    report = reorganize(model, [(images, torch.arange(40) % 4)], ["a", "b"], recipe)
    assert [group.new for group in report.groups] == [4, 3]
    assert report.output_change < 1e-6


def test_what_meets_a_recurrent_layer_is_moved_rightly_or_frozen_with_a_reason():
    verdict = verify(Recurrent(), torch.randn(1, 2, 12))
    assert verdict.outcome == "right"
    assert "a.weight" not in verdict.frozen


class Preallocated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        out = torch.zeros(x.shape[0], 8, *x.shape[2:], dtype=x.dtype)
        out[:, ::2] = self.a(x)
        return self.b(out)


class ChannelSteps(nn.Module):
    """A recurrent layer whose steps are the channels of a convolution, which keep their order."""

    def __init__(self):
        super().__init__()
        self.a, self.rnn = nn.Conv2d(1, 6, 3), nn.LSTM(36, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(self.a(x).flatten(2))[0][:, -1])


def test_steps_of_a_recurrent_layer_keep_their_order():
    traced = trace(ChannelSteps().eval(), torch.zeros(2, 1, 8, 8))
    assert "position" in traced.group("a.weight").frozen
    assert traced.group("rnn.weight_ih_l0").frozen is None


def test_a_buffer_filled_in_parts_freezes_what_is_written():
    groups = trace(Preallocated(), IMAGE).groups
    assert next(g for g in groups if g.name == "a.weight").frozen


class PartFilled(nn.Module):
    """The rows at the border of what a layer reads are all the same."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = self.a(x).relu()
        x[:, :, 0] = 1.5
        x[:, :, -1:].zero_()
        return self.b(x)


def test_channels_whose_parts_are_filled_with_a_number_move():
    model, x = PartFilled(), torch.randn(20, 3, 9, 9)
    before = model(x)
    report = arrange(model, batches=[(x, torch.arange(20) % 4)], groups="all")
    assert [group.group for group in report.groups] == ["a.weight"]
    torch.testing.assert_close(model(x), before)


class Silenced(nn.Module):
    """Some of what the first layer makes is put to zero, or of the kernels of the second."""

    def __init__(self, part=None, kernel=()):
        super().__init__()
        self.part, self.kernel = part, kernel
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        x, kernel = self.a(x), self.b.weight.clone()
        if self.part:
            self.part(x).zero_()
        else:
            kernel[self.kernel] = 0
        return self.c(F.conv2d(x.relu(), kernel, self.b.bias))


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, :3],
        lambda x: x[:, 2],
        lambda x: x.unflatten(1, (2, 4))[:, 0],
        lambda x: x.flatten(2)[:, 1, 4:],
        lambda x: x.transpose(0, 1)[::2],
    ],
)
def test_channels_of_which_some_are_filled_with_a_number_stay(part):
    verdict = check(Silenced(part), moved=1)
    assert "position" in verdict.frozen["a.weight"]


@pytest.mark.parametrize("source", ["data", "weights"])
def test_what_a_part_is_filled_with_may_be_what_one_channel_says(source):
    class Filled(Silenced):
        def forward(self, x):
            x = self.a(x)
            x[:, :, 0].fill_(x[0, 3, 5, 5] if source == "data" else self.b.weight[0, 3, 1, 1])
            return self.c(self.b(x.relu()))

    assert check(Filled(), moved=1).frozen["a.weight"]


@pytest.mark.parametrize(
    ("kernel", "moved"), [((..., 0, 0), 2), ((slice(None), slice(3)), 1), ((0,), 1)]
)
def test_kernels_that_are_filled_in_part_move_where_that_tells_no_channels_apart(kernel, moved):
    check(Silenced(kernel=kernel), moved=moved)


def test_unknown_operators_freeze_with_their_name():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.b(torch.fft.fft(self.a(x), dim=1).real)

    assert "_fft_r2c" in trace(Spectral(), IMAGE).group("a").frozen


@pytest.mark.parametrize("name", ["CELU", "ELU", "Hardsigmoid", "Hardtanh", "LeakyReLU", "SELU"])
def test_activations_that_an_older_pytorch_does_not_tag(name, monkeypatch):
    monkeypatch.setattr(torch.Tag, "pointwise", None)
    for module in (getattr(nn, name)(inplace=True), nn.LeakyReLU()):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), module, nn.Conv2d(4, 2, 1))
        assert trace(model, IMAGE).groups[0].frozen is None


def test_an_activation_that_is_two_operators():
    check(nn.Sequential(nn.Conv2d(3, 4, 1), nn.LogSigmoid(), nn.Conv2d(4, 2, 1)), moved=1)


def test_tracing_leaves_no_trace():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)
    )
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    traced = trace(model, IMAGE)
    observe(traced, IMAGE, {})
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_a_model_keeps_between_passes_follows_its_weights():
    model, (x,) = small_network("kept_bias")
    traced = trace(model, x)
    assert any(group.unit == "set" for group in traced.groups)
    assert not model.kept
    with torch.no_grad():
        before, biases = model(x), model.kept["bias"].clone()
    tensor = traced.group("stem").tap.tensor
    seen = []
    observe(traced, x, {tensor: lambda t: seen.append(t.clone())})
    assert torch.equal(seen[0], model.stem(x))  # the pass is the one that was traced
    with torch.no_grad():
        model(x)
    plan = arrange_plan(traced.groups, orders(traced.groups))
    assert any(group.group.endswith(":sets") for group in plan.groups)
    with Edit(model, caches=traced.caches) as edit:
        edit.write(transform(plan, edit.read(plan.weights)))
    with torch.no_grad():
        after = model(x)
    assert not torch.equal(model.kept["bias"], biases)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_parts_of_a_split_are_written_in_place():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            left, right = self.a(x).chunk(2, dim=1)
            return self.b(left.sigmoid_() * right)

    check(Split(), moved=1)


def test_taps_are_found_again_for_any_batch_size():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    traced = trace(model, IMAGE)
    seen = []
    batch = torch.randn(5, 3, 16, 16)
    observe(traced, batch, {traced.groups[0].tap.tensor: lambda t: seen.append(t.clone())})
    assert torch.equal(seen[0], model[1](model[0](batch)))


def test_a_model_that_changed_its_course_is_refused():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.deep = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), True

        def forward(self, x):
            return self.b(self.a(x).relu().tanh()) if self.deep else x

    model = Moody()
    traced = trace(model, IMAGE)
    model.deep = False
    with pytest.raises(RuntimeError, match="trace the model again"):
        observe(traced, IMAGE, {traced.groups[0].tap.tensor: lambda t: None})


def test_wrappers_keywords_and_wrong_names():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    assert trace(nn.DataParallel(model), IMAGE).model is model
    assert trace(torch.compile(model), IMAGE).model is model
    assert trace(model, {"input": IMAGE}).group("0").name == "0.weight"
    with pytest.raises(ValueError, match=r"'0\.weigth'; did you mean '0\.weight'"):
        trace(model, IMAGE).group("0.weigth")
    with pytest.raises(TypeError, match="must be a torch"):
        trace(lambda x: x, IMAGE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_traced_and_widened(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).to(dtype)
    traced = trace(model, IMAGE.to(dtype))
    assert traced.groups[0].frozen is None
    assert traced.weights["0.weight"].dtype == "float32"


def test_layers_behind_an_embedding_move():
    """What is looked up depends on the input, though it is made of weights alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    words, weight = torch.arange(20).reshape(4, 5) % 10, model[1].weight.clone()
    before = model(words)
    arrange(model, words, order="random")
    assert not torch.equal(model[1].weight, weight)
    torch.testing.assert_close(model(words), before)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"]
)
def test_torchvision_networks(name):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    outputs = 1 if name.startswith("squeezenet") else 0  # its last convolution makes the outputs
    check(model, torch.randn(1, 3, 64, 64), moved=len(convolutions(model)) - outputs)
