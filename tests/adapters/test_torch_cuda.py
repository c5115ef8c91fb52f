"""An event on a GPU is the one on the CPU; each test runs on the CPU as well."""

import copy

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, collect, trace  # noqa: E402
from torch import nn  # noqa: E402

needed = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needed])]


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


def train(model, optimizer, x, y):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize("labels", ["indices", "weights"])
def test_class_means_are_equal(trained_network, torch_batches, device, labels):
    batches = torch_batches[:2]
    if labels == "weights":
        batches = [(x, nn.functional.one_hot(y, 10).float()) for x, y in batches]
    expected = collect(trace(trained_network, batches[0][0][:2]), batches)
    traced = trace(trained_network.to(device), batches[0][0][:2].to(device))
    for name, means in collect(traced, batches).items():
        torch.testing.assert_close(means.Q, expected[name].Q, rtol=1e-4, atol=1e-5)
        assert means.counts.tolist() == expected[name].counts.tolist()


@pytest.mark.parametrize("kind", ["plain", "fused", "capturable"])
def test_plans_and_weights_are_equal(duplicated_network, torch_batches, device, kind):
    if kind == "capturable" and device == "cpu":
        pytest.skip("capturable optimizers need a GPU")
    expected = copy.deepcopy(duplicated_network)
    reference = Reorganizer(expected, None, torch_batches, every=1)
    reference.step(0)
    model = duplicated_network.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), 0.0, **({} if kind == "plain" else {kind: True})
    )
    x, y = (part.to(device) for part in torch_batches[0])
    train(model, optimizer, x, y)
    steps = {p: state["step"].clone() for p, state in optimizer.state.items()}
    reorganizer = Reorganizer(model, optimizer, torch_batches, every=1)
    new = torch.as_tensor(reorganizer.step(0).plan.groups[0].new)
    assert reorganizer.history[0]["sources"] == reference.history[0]["sources"]
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name].cpu(), value, rtol=1e-3, atol=1e-4)
    for parameter, state in optimizer.state.items():
        assert torch.equal(state["step"], steps[parameter])
        assert {value.device for value in state.values()} == {
            parameter.device,
            steps[parameter].device,
        }
    assert not optimizer.state[model[8].weight]["exp_avg"][new.to(device)].any()
    train(model, optimizer, x, y)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
