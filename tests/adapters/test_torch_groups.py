"""Every group that can be moved is moved by ``arrange``, judged by all that its consumers read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rejuvenet.adapters.torch import arrange, collect, reorganize, trace
from rejuvenet.graph import Recipe
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

from group_networks import MODELS, Net, built, conv, head, images

CLASSES = 4
REDUNDANT = Recipe.preserving(ratio="redundant")


def batches():
    return [(images(), torch.arange(8) % CLASSES)]


@pytest.mark.parametrize("name", MODELS)
def test_all_groups_that_can_be_exchanged_are_arranged(name):
    model = built(name)
    free = {g.name for g in trace(model, images(2)).groups if g.exchangeable}
    x = images()
    with torch.no_grad():
        before = model(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    report = arrange(model, images(2), order="random")
    assert {r.group for r in report.groups} == free
    assert all(r.moved for r in report.groups)
    assert not any(torch.equal(state[m], v) for m, v in model.state_dict().items()
                   if m in report.plan.weights)  # fmt: skip
    with torch.no_grad():
        np.testing.assert_allclose(model(x), before, rtol=0, atol=1e-11 * before.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_all_groups_are_merged_or_say_why_not(name):
    model = built(name)
    known = {g.name: g for g in trace(model, images(2)).groups}
    report = reorganize(model, batches(), layers="all", recipe=Recipe.preserving(ratio=0.75))
    assert {r.group for r in report.groups} | set(report.skipped) == set(known)
    for group, reason in report.skipped.items():
        if known[group].exchangeable:
            assert any(why in reason for why in ("is tied", "whole sets", "no weight reads"))
    assert report.output_change < 1


COPIES = ("ghost", "concat(x, x)", "depthwise multiplier", "flattened", "expanded gates")


@pytest.mark.parametrize("name", COPIES)
def test_copies_in_all_places_of_a_channel_merge_without_a_trace(name):
    """Half of the first group's channels become copies wherever they are made or scaled."""
    model = built(name)
    group = trace(model, images(2)).groups[0]
    source = np.arange(group.channels)
    source[group.channels // 2 :] = np.arange(group.channels - group.channels // 2)
    with torch.no_grad():
        for member in group.members:
            if member.kind != "consumer":
                tensor = model.state_dict()[member.weight]
                rows = np.array(member.rows(tensor.numpy()))
                rows[member.positions] = rows[member.positions[source]]
                tensor.copy_(torch.from_numpy(member.restore(rows, tuple(tensor.shape))))
        before = model(images())
    report = reorganize(model, batches(), layers=[group.name], recipe=Recipe.preserving(
        ratio="redundant", tolerance=1e-6, dormant=0.0))  # fmt: skip
    assert report.groups[0].new == group.channels - group.channels // 2
    with torch.no_grad():
        np.testing.assert_allclose(model(images()), before, rtol=0, atol=1e-9 * before.abs().max())


def called_twice(m, x):
    """``b`` reads the channels of ``a``, and then its own."""
    return m.h(F.relu(m.b(F.relu(m.b(F.relu(m.a(x)))))))


def shared_layer(silent):
    """A network in which the channels ``silent`` respond in the first call only."""
    torch.manual_seed(0)
    net = Net(called_twice, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 8, 3, padding=1),
              h=head(8)).double().eval()  # fmt: skip
    with torch.no_grad():
        net.a.bias.add_(1.0)
        net.b.bias[:] = 0.5
        net.b.bias[silent] = -1e3
    return net


def test_a_shared_layer_is_judged_by_all_its_calls():
    net = shared_layer([6, 7])
    (group, _) = trace(net, images(2)).groups
    assert len(group.tap.each) == 3
    means = collect(trace(net, images(2)), batches(), [group])[group.name]
    first, last = (means.Q[..., part] for part in (slice(0, 64), slice(-64, None)))
    assert (first[:, 6:] > 0).any()
    assert not last[:, 6:].any()
    with torch.no_grad():
        before = net(images())
    with pytest.warns(UserWarning, match="nothing was freed"):
        report = reorganize(net, batches(), layers="all", recipe=REDUNDANT)
    assert report.groups[0].new == 0
    with torch.no_grad():
        assert torch.equal(net(images()), before)
        net.a.weight[[6, 7]] = 0.0  # silent in all calls
        net.a.bias[[6, 7]] = -1.0
    report = reorganize(net, batches(), layers="all", recipe=REDUNDANT)
    assert report.groups[0].new == 2


def test_channels_alike_in_the_last_call_only_are_not_merged():
    net = shared_layer([])
    with torch.no_grad():
        net.b.weight[7] = net.b.weight[6]
        net.b.bias[7] = net.b.bias[6]
    with pytest.warns(UserWarning, match="nothing was freed"):
        reorganize(net, batches(), layers="all", recipe=REDUNDANT)
    with torch.no_grad():
        net.a.weight[7] = net.a.weight[6]
        net.a.bias[7] = net.a.bias[6]
        before = net(images())
    report = reorganize(net, batches(), layers="all", recipe=REDUNDANT)
    assert report.groups[0].new == 1
    with torch.no_grad():
        np.testing.assert_allclose(net(images()), before, rtol=0, atol=1e-10 * before.abs().max())


def test_a_residual_stage_is_judged_by_what_every_block_reads():
    net = Net(
        lambda m, x: m.h(F.relu((a := F.relu(m.a(x))) + m.b(a))),
        a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 8, 3, padding=1), h=head(8),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        net.a.bias.add_(1.0)
        net.b.bias.add_(1.0)
        net.b.bias[7] = -1e3  # what the head reads is silent, what b reads is not
    with pytest.warns(UserWarning, match="nothing was freed"):
        report = reorganize(net, batches(), layers=["a"], recipe=REDUNDANT)
    assert report.groups[0].new == 0


def test_class_means_are_those_of_the_samples_where_time_comes_first():
    """Attention and recurrent layers keep (time, sample, channel)."""
    net = built("attention")
    x = images(6)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    with torch.no_grad():
        read = net.a(x).flatten(2)  # (sample, channel, position)
    means = collect(trace(net, images(2)), [(x, labels)], ["a.0"])["a.0.weight"]
    expected = read.unflatten(0, (3, 2)).mean(1)
    np.testing.assert_allclose(means.Q.reshape(3, 8, -1), expected, rtol=1e-5, atol=1e-6)


class Merged(nn.Module):
    """Its middle layer sees samples and positions in one axis, which no description tells apart."""

    def __init__(self):
        super().__init__()
        self.a, self.h = conv(3, 8), head(8)
        self.w, self.v = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(8, 6))

    def forward(self, x):
        a = self.a(x)
        n, c, h, w = a.shape
        rows = a.permute(2, 3, 0, 1).reshape(-1, c)
        y = torch.sigmoid(torch.einsum("rc,dc->dr", rows, self.w))
        y = torch.einsum("dr,cd->rc", y, self.v)
        return self.h(y.reshape(h, w, n, c).permute(2, 3, 0, 1))


def test_one_group_that_nothing_describes_does_not_stop_the_others():
    model = Merged().double().eval()
    x = images()
    report = reorganize(model, batches(), layers="all", recipe=Recipe.preserving(ratio=0.5))
    assert "a.0.weight" in {r.group for r in report.groups}
    assert "no activations describe it" in report.skipped["w"]
    with pytest.raises(ValueError, match="no activations describe it"):
        reorganize(model, batches(), layers=["w"], recipe=Recipe.preserving(ratio=0.5))
    with torch.no_grad():
        before = model(x)
    report = arrange(model, x, order="random")
    assert "w" in {r.group for r in report.groups}
    report = arrange(model, order="sofm", batches=batches())
    assert "no activations describe it" in report.skipped["w"]
    with torch.no_grad():
        np.testing.assert_allclose(model(x), before, rtol=0, atol=1e-11 * before.abs().max())
    report = reorganize(model, batches(), layers=["w"], recipe=Recipe.comparison("l2"))
    assert report.groups[0].new == 3


MASK = torch.zeros(8, 8, 8, dtype=torch.bool)
MASK.view(-1)[::128] = True  # one element of every other channel
IN_ORDER = {  # by what it computes from (n, 8, 8, 8), and the sets of channels that may move
    "mask over channels and space": (lambda x: x[:, MASK].repeat(1, 2), [4, 4]),
    "mask over space": (lambda x: x[:, :, MASK[0] | MASK[4]].sum(2), [8]),
    "mask over space behind an ellipsis": (lambda x: x[..., MASK[0] | MASK[4]].sum(2), [8]),
    "mask of bytes": (
        lambda x: x[:, torch.tensor([1, 0, 0, 1, 0, 1, 1, 0], dtype=torch.uint8)].mean((2, 3))
        .repeat(1, 2), [4, 4],
    ),
    "mask over samples and channels": (
        lambda x: x[torch.ones(x.shape[:2], dtype=torch.bool)].view(x.shape).mean((2, 3)), [8],
    ),
    "roll of all elements": (lambda x: torch.roll(x, 5).mean((2, 3)), []),
    "one axis rolled twice": (lambda x: torch.roll(x, (1, 2), (1, 1)).mean((2, 3)), [8]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("name", IN_ORDER)
def test_masks_and_rolls_keep_the_function(name):
    read, expected = IN_ORDER[name]
    model = Net(lambda m, x: m.h(read(m.a(x))), a=conv(3, 8), h=nn.Linear(8, 5)).double().eval()
    x = images(2).double()
    groups = [g for g in trace(model, x).groups if g.name.startswith("a")]
    assert [len(s) for g in groups for s in g.exchangeable] == expected
    if expected:
        before = model(x)
        arrange(model, x, order="random")
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
