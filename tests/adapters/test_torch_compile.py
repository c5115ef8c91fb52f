"""Compiled models: edited inside, never compiled again, never run with old weights."""

import copy

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, reorganize  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def network(trained_network):
    trained_network[7].p = 0.0  # compiled graphs draw other random numbers
    return trained_network


def train(model, optimizer, batches):
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def run(model, reference, batches, counter):
    """Train both, reorganize both, train on; the compiled model stays the plain one's equal."""
    x = batches[0][0]
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (model, reference)]
    reorganizers = [
        Reorganizer(m, o, batches, layers=["4", "8*"], every=1, ratio=0.5)
        for m, o in zip((model, reference), optimizers, strict=True)
    ]
    for each, optimizer in zip((model, reference), optimizers, strict=True):
        each.train()
        train(each, optimizer, batches[:2])
        each.eval()
        with torch.no_grad():
            each(x)
    graphs = counter()
    for epoch in range(2):
        for each, optimizer, reorganizer in zip(
            (model, reference), optimizers, reorganizers, strict=True
        ):
            with torch.no_grad():
                before = each(x)
            assert reorganizer.step(epoch) is not None
            with torch.no_grad():
                assert not torch.equal(each(x), before)
            each.train()
            train(each, optimizer, batches[:2])
            each.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-4)
    assert counter() == graphs


@pytest.mark.parametrize("form", ["wrapper", "in place", "part"])
def test_nothing_is_compiled_again(network, torch_batches, form):
    reference = copy.deepcopy(network)
    counting = CompileCounterWithBackend("aot_eager")
    model = network
    if form == "wrapper":
        model = torch.compile(model, backend=counting)
    elif form == "in place":
        model.compile(backend=counting)
    else:
        model[8] = torch.compile(model[8], backend=counting)
        # PyTorch calls its weight 8._orig_mod.weight, and draws depend on names.
        reference[8] = torch.compile(reference[8], backend="eager")
    run(model, reference, torch_batches[:3], lambda: counting.frame_count)


def test_gradients_of_the_loss_compile_nothing(network, torch_batches):
    counting = CompileCounterWithBackend("eager")
    network.compile(backend=counting)
    optimizer = torch.optim.SGD(network.train().parameters(), 0.05)
    train(network, optimizer, torch_batches[:1])
    graphs = counting.frame_count
    assert graphs > 0
    reorganize(network, torch_batches[:2], recipe=Recipe.comparison("rigl"), classes=10)
    assert counting.frame_count == graphs


@pytest.mark.nightly
def test_inductor_sees_the_new_weights(network, torch_batches):
    reference = copy.deepcopy(network)
    compiled = torch.compile(network)
    from torch._dynamo.utils import counters

    run(compiled, reference, torch_batches[:3], lambda: counters["stats"]["unique_graphs"])


def test_results_are_those_of_the_plain_model(network, torch_batches):
    reference = copy.deepcopy(network)
    compiled = torch.compile(network, backend="eager")
    reorganize(compiled, torch_batches)
    reorganize(reference, torch_batches)
    for name, value in reference.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
