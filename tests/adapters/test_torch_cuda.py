"""An event on a GPU is the one on the CPU; what needs no GPU runs on the CPU as well."""

import copy

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.finetune.objective import Classes, Objective  # noqa: E402
from rejuvenet.adapters.finetune.training import Settings, Training  # noqa: E402
from rejuvenet.adapters.images.image_data import ArrayFile, Batches  # noqa: E402
from rejuvenet.adapters.torch import Reorganizer, collect, reorganize, trace  # noqa: E402
from rejuvenet.adapters.torch.distributed import Processes  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """Convolutions of a GPU round as those of a CPU do, to compare with them."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(params=DEVICES)
def device(request):
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


def test_events_counted_in_steps(trained_network, torch_batches, device):
    model = trained_network.to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    batches = [(x.to(device), y.to(device)) for x, y in torch_batches]
    reorganizer = Reorganizer(
        model, optimizer, layers="all", ratio=0.5, every_steps=3, example_inputs=batches[0][0]
    )
    for x, y in batches[:3]:
        train(model, optimizer, x, y)
        report = reorganizer.step(x, y)
    assert all(group.new for group in report.groups)
    assert {kept.inputs.device for kept in reorganizer.steps.kept} == {batches[0][0].device}
    train(model, optimizer, *batches[0])
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_sums_are_the_same_every_time(device):
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).to(device)
    traced = trace(model, torch.zeros(1, 1, 9, 9, device=device))
    x = torch.randn(2000, 1, 9, 9, generator=torch.Generator().manual_seed(0)).to(device)
    batches = [(x, torch.arange(2000, device=device) % 2)]
    first = collect(traced, batches)["0.weight"]
    for _ in range(5):
        assert (collect(traced, batches)["0.weight"].Q == first.Q).all()


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
    recipe = Recipe.preserving(ratio="redundant", optimizer="merge")
    reorganizer = Reorganizer(model, optimizer, torch_batches, every=1, recipe=recipe)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_changes_no_plan(duplicated_network, torch_batches, device, dtype):
    expected = copy.deepcopy(duplicated_network).to(device)
    reference = Reorganizer(expected, None, torch_batches, every=1)
    reference.step(0)
    model = duplicated_network.to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    x, y = (part.to(device) for part in torch_batches[0])

    def train_scaled():
        optimizer.zero_grad()
        with torch.autocast(device, dtype):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    train_scaled()
    reorganizer = Reorganizer(model, optimizer, torch_batches, every=1)
    with torch.autocast(device, dtype):
        reorganizer.step(0)
    assert reorganizer.history[0]["sources"] == reference.history[0]["sources"]
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert scaler.get_scale() == 1024.0
    train_scaled()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.gpu
def test_a_captured_step_goes_on_with_the_new_weights(trained_network, torch_batches):
    model = trained_network.cuda().train()
    model[7].p = 0.0  # a captured step draws other random numbers
    x, y = (part.cuda() for part in torch_batches[0])
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            train(model, optimizer, x, y)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(captured):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    captured.replay()
    Reorganizer(model, optimizer, torch_batches, every=1, ratio=0.5).step(0)
    other = copy.deepcopy(model)
    other_optimizer = torch.optim.SGD(other.parameters(), 0.05, momentum=0.9)
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        captured.replay()
        train(other, other_optimizer, x, y)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_compiled_model_sees_the_new_weights(trained_network, torch_batches):
    from torch._dynamo.utils import counters

    model = trained_network.cuda()
    compiled = torch.compile(model)
    x = torch_batches[0][0].cuda()
    with torch.no_grad():
        before = compiled(x)
        graphs = counters["stats"]["unique_graphs"]
        reorganize(compiled, torch_batches, layers="last")
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)
        assert not torch.equal(compiled(x), before)
    assert counters["stats"]["unique_graphs"] == graphs > 0


@pytest.mark.gpu
def test_memory_format_and_pinned_batches(trained_network, torch_batches):
    expected = copy.deepcopy(trained_network)
    reference = reorganize(expected, torch_batches)
    model = trained_network.cuda().to(memory_format=torch.channels_last)
    pinned = [(x.pin_memory(), y.pin_memory()) for x, y in torch_batches]
    report = reorganize(model, pinned)
    assert [g.new for g in report.groups] == [g.new for g in reference.groups]
    assert model[8].weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name].cpu(), value, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_finetuning_uses_the_gpu_and_comes_back(trained_network, torch_digits):
    x, y = torch_digits[0].numpy(), torch_digits[1].numpy()
    seen = set()
    trained_network.register_forward_pre_hook(lambda module, args: seen.add(args[0].device.type))
    data = Batches(ArrayFile.of(x[:256], y[:256]), 64)
    objective = Objective(Classes(0, "scores"))
    done = Training(trained_network, objective, data, settings=Settings(2)).run()
    assert seen == {"cuda"}
    assert next(trained_network.parameters()).device.type == "cpu"
    assert len(done.epochs) == 3


@pytest.mark.gpu
def test_nccl_adds_up_what_lies_on_the_host(tmp_path):
    distributed = torch.distributed
    if not distributed.is_nccl_available():
        pytest.skip("this build of torch has no NCCL")
    distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        processes = Processes()
        processes.world = 2  # communicate, although there is one process
        host, device = torch.arange(3.0), torch.arange(3.0).cuda()
        processes.sum([host, device])
        processes.copy_from_first([host, device])
        assert host.tolist() == device.tolist() == [0.0, 1.0, 2.0]
        assert processes.sum_arrays(1.5)[0] == 1.5
        assert processes.from_first({"plan": 1}) == {"plan": 1}
    finally:
        distributed.destroy_process_group()
