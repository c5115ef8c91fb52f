"""What the traced pass does not use is named: heads for training, branches, idle experts.

What it computes for nothing changes along.
"""

import warnings

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, arrange, reorganize, shrink, trace  # noqa: E402
from rejuvenet.adapters.torch.unread import warn_of_unread  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402


class Net(nn.Module):
    def __init__(self, forward, **modules):
        super().__init__()
        self.way = forward
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.l = nn.Linear(8, 4)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.way(self, x)


def trunk(m, x):
    return F.relu(m.b(F.relu(m.a(x)))).mean((2, 3))


def with_auxiliary_head(m, x):
    z = trunk(m, x)
    return (m.l(z), m.aux(z)) if m.training else m.l(z)


def by_size(m, x):
    z = trunk(m, x)
    return m.l(z) if x.shape[-1] < 16 else m.l(m.e(z))


def by_value(m, x):
    return m.h1(trunk(m, x)) if x.mean() > 100 else m.l(trunk(m, x))


def experts(m, x):
    z = trunk(m, x)
    i = torch.zeros(len(z), dtype=torch.long)
    out = torch.zeros(len(z), 8)
    for e, expert in enumerate(m.experts):
        rows = torch.where(i == e)[0]
        if len(rows):
            out = out.index_add(0, rows, expert(z[rows]))
    return m.l(out)


UNREAD = {
    "auxiliary head": (lambda: Net(with_auxiliary_head, aux=nn.Linear(8, 4)), ["aux"]),
    "size": (lambda: Net(by_size, e=nn.Linear(8, 8)), ["e"]),
    "value": (lambda: Net(by_value, h1=nn.Linear(8, 4)), ["h1"]),
    "experts": (
        lambda: Net(experts, experts=nn.ModuleList(nn.Linear(8, 8) for _ in range(3))),
        ["experts.1", "experts.2"],
    ),
    "a parameter": (
        lambda: Net(lambda m, x: m.l(trunk(m, x)), own=nn.ParameterList([torch.ones(8)])), ["own"],
    ),
}  # fmt: skip

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(X, torch.arange(4) % 2)] * 2


@pytest.mark.parametrize("what", UNREAD)
def test_what_the_traced_pass_does_not_use_is_warned_of_and_in_the_report(what):
    make, names = UNREAD[what]
    with pytest.warns(UserWarning, match="the pass that was traced did not use") as caught:
        report = arrange(make(), X, order="random")
    assert report.unread == names == report.to_dict()["unread"]
    (said,) = [str(w.message) for w in caught if "did not use" in str(w.message)]
    assert all(repr(name) in said and repr(name) in str(report) for name in names)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("change", [reorganize, shrink])
def test_merges_and_removals_say_it_too(change):
    model = UNREAD["auxiliary head"][0]()
    with pytest.warns(UserWarning, match="did not use the parameters of 'aux':") as caught:
        report = change(model, recipe=Recipe.shrinking(method="l2"), layers="all",
                        example_inputs=X)  # fmt: skip
    assert report.unread == ["aux"]
    assert caught[0].filename == __file__


def test_many_modules_are_named_in_part():
    heads = {f"h{i}": nn.Linear(8, 4) for i in range(8)}
    with pytest.warns(UserWarning, match="'h0', 'h1', 'h2', 'h3', 'h4' and 3 more: "):
        report = arrange(Net(lambda m, x: m.l(trunk(m, x)), **heads), X, order="random")
    assert len(report.unread) == 8


def test_every_process_reports_what_the_first_one_warns_of(recwarn):
    traced = trace(UNREAD["auxiliary head"][0](), X)
    assert warn_of_unread(traced, aloud=False) == ["aux"]
    assert not recwarn
    with pytest.warns(UserWarning, match="'aux'"):
        assert warn_of_unread(traced) == ["aux"]


def test_a_training_is_warned_once():
    model = UNREAD["auxiliary head"][0]()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    reorganizer = Reorganizer(model, optimizer, BATCHES, layers="all", every=1, ratio=0.5, epochs=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reports = [reorganizer.step(epoch) for epoch in range(4)]
    assert [report.unread for report in reports if report] == [["aux"]] * 3
    assert sum("did not use" in str(w.message) for w in caught) == 1


class Other(nn.Linear):
    def forward(self, x):
        return x @ self.weight.data.t()[:, :] + self.bias.detach()


def plain(kind):
    return Net(lambda m, x: m.l(m.c(trunk(m, x))), c=kind(nn.Linear(8, 8)))


def tied(layer):
    pair = nn.Sequential(layer, nn.Linear(8, 8))
    pair[1].weight = layer.weight
    return pair


READ = {
    "weight_norm": lambda: plain(parametrizations.weight_norm),
    "spectral_norm": lambda: plain(parametrizations.spectral_norm),
    "pruned": lambda: plain(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "tied": lambda: plain(tied),
    "data": lambda: plain(lambda _: Other(8, 8)),
    "normalized": lambda: plain(lambda layer: nn.Sequential(layer, nn.BatchNorm1d(8))),
    "scale": lambda: Net(lambda m, x: m.l(trunk(m, x)), s=nn.ParameterList([torch.ones(1)])),
    "returned": lambda: Net(lambda m, x: (m.l(trunk(m, x)), m.s[0]),
                            s=nn.ParameterList([torch.ones(8)])),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_what_is_read_in_another_form_is_used(kind):
    traced = trace(READ[kind]().eval(), X)
    assert not traced.unread


def last_sum_is_dropped(m, x):
    """As in a WaveNet, whose last residual sum nobody reads."""
    z = F.relu(m.a(x))
    y = F.relu(m.b(z))
    z = z + m.c(y)
    return m.l(y.mean((2, 3)))


def returned_in_training(m, x):
    y = F.relu(m.b(F.relu(m.a(x))))
    aside = m.k(F.relu(m.n(m.c(y))).mean((2, 3)))
    out = m.l(y.mean((2, 3)))
    return (out, aside) if m.training else out


ASIDE = {
    "a sum": (lambda: Net(last_sum_is_dropped, c=nn.Conv2d(8, 8, 1)), set()),
    "a head": (
        lambda: Net(returned_in_training, c=nn.Conv2d(8, 8, 1), n=nn.GroupNorm(8, 8),
                    k=nn.Linear(8, 3)), {"c.weight", "k.weight"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ASIDE)
def test_layers_whose_result_is_dropped_change_along(what):
    make, still = ASIDE[what]
    model = make().double()
    before = model(X.double())
    report = arrange(model, X.double(), order="random")
    assert {group.group for group in report.groups} == {"a.weight", "b.weight"}
    assert "c.weight" in report.plan.weights
    assert not report.unread
    torch.testing.assert_close(model(X.double()), before)
    report = shrink(model, recipe=Recipe.shrinking(method="l2", ratio=0.5),
                    example_inputs=X.double())  # fmt: skip
    assert model.a.out_channels == model.b.out_channels == model.c.in_channels == 4
    assert set(report.skipped) == {"l.weight", *still}
    model(X.double())
