"""Several processes, for real: gloo, two and four of them, each with a share of the digits."""

import pickle
import runpy
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.multiprocessing as multiprocessing  # noqa: E402
from rejuvenet.adapters.torch import Reorganizer, collect, reorganize, trace  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this build of torch has no gloo",
)


def process(rank, world, folder):
    """What one process does: run each work on fresh arguments; leave what they return."""
    folder, results = Path(folder), {}
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    for name, (work, arguments) in pickle.loads((folder / "tasks").read_bytes()).items():
        try:
            results[name] = globals()[work](rank, world, *pickle.loads(arguments))
        except Exception as error:
            results[name] = error
    torch.distributed.destroy_process_group()
    (folder / f"{rank}").write_bytes(pickle.dumps(results))


def in_processes(world, tasks, folder):
    """Run ``work(rank, world, *arguments)`` of each task in each of ``world`` processes.

    Returns for each task what the processes returned, by rank.
    """
    # By value, each on its own: tensors that are passed to a process would share their memory.
    packed = {n: (work.__name__, pickle.dumps(arguments)) for n, (work, arguments) in tasks.items()}
    (folder / "tasks").write_bytes(pickle.dumps(packed))
    # A server that has imported everything and started no threads, which a fork would break.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "torch.distributed.fsdp", "rejuvenet.adapters.torch"])
    everyone = []
    for rank in range(world):
        given = {"task": (rank, world, str(folder))}
        everyone.append(context.Process(target=runpy.run_path, args=(__file__, given, "child")))
        everyone[-1].start()
    limit = time.monotonic() + 200
    for one in everyone:
        one.join(max(0.0, limit - time.monotonic()))
    hanging = [one for one in everyone if one.is_alive()]
    for one in hanging:
        one.kill()
    assert not hanging, "a process waits for another one"
    results = [pickle.loads((folder / f"{rank}").read_bytes()) for rank in range(world)]
    return {name: [result[name] for result in results] for name in tasks}


def state(model):
    return {name: value.clone().cpu().numpy() for name, value in model.state_dict().items()}


def shares(batches, world, uneven=True):
    """Batches of each process; the first one has more of them, if they are uneven."""
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    size = 50
    batches = list(zip(x.split(size), y.split(size), strict=True))
    edges = np.linspace(0, len(batches), world + 1).astype(int)
    if uneven:
        edges[1:-1] += 1
    return [batches[low:high] for low, high in pairwise(edges)]


def reorganize_share(rank, world, model, parts, options, device="cpu"):
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for parameter in model.parameters():
        generator = torch.Generator().manual_seed(parameter.numel())
        momentum = torch.randn(parameter.shape, generator=generator).to(device)
        optimizer.state[parameter]["momentum_buffer"] = momentum
    report = reorganize(model, parts[rank], optimizer=optimizer, **options)
    momenta = {
        name: optimizer.state[parameter]["momentum_buffer"].cpu().numpy()
        for name, parameter in model.named_parameters()
    }
    return state(model), momenta, report.to_dict()


def collect_share(rank, world, model, parts, options):
    traced = trace(model, parts[0][0][0][:2])
    means = collect(traced, parts[rank], ["8.weight"], **options)["8.weight"]
    return means.Q, means.counts, means.samples


def train_share(rank, world, model, parts, find_unused):
    wrapped = DistributedDataParallel(model, find_unused_parameters=find_unused)
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.05, momentum=0.9)
    reorganizer = Reorganizer(
        wrapped, optimizer, parts[rank], every=1, ratio=0.5, epochs=5, classes=10
    )
    events = []
    for epoch in range(4):
        torch.manual_seed(100 * epoch + rank)
        wrapped.train()
        for x, y in parts[rank]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
        before = state(model)
        report = reorganizer.step(epoch)
        events.append((before, state(model), report is not None))
    return events


def default_share(rank, world, model, parts):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = Reorganizer(model, None, parts[rank], ["4", "8"], every=1).step(0)
    said = [str(warning.message) for warning in caught]
    return state(model), [group.new for group in report.groups], said


def fail(rank, world, model, parts, how):
    before = state(model)
    if how == "data" and rank == 1:
        parts[1][0][0][0, 0, 0, 0] = float("nan")
    if how == "labels" and rank == 1:
        parts[1] = [(x, y - 5) for x, y in parts[1]]
    if how == "loader" and rank == 0:
        parts[0] = (batch for batch in [*parts[0][:1], None])
    if how == "weights" and rank == 1:
        with torch.no_grad():
            model[4].bias.add_(1.0)
        before = state(model)
    try:
        reorganize(model, parts[rank], classes=10)
    except (ValueError, RuntimeError) as error:
        same = all(np.array_equal(before[n], v) for n, v in state(model).items())
        return type(error).__name__, str(error), same
    return "nothing", "", False


def freeze_share(rank, world, model, parts):
    messages = []
    for find_unused in (False, True):
        wrapped = DistributedDataParallel(model, find_unused_parameters=find_unused)
        optimizer = torch.optim.SGD(wrapped.parameters(), 0.05)
        try:
            reorganizer = Reorganizer(
                wrapped, optimizer, parts[rank], every=1, ratio=0.5, freeze_below=True, classes=10
            )
        except ValueError as error:
            messages.append(str(error))
            continue
        reorganizer.step(0)
        before = state(model)
        for x, y in parts[rank][:1] * 2:
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
        messages.append([np.array_equal(before[f"{n}.weight"], state(model)[f"{n}.weight"])
                         for n in (0, 4, 8, 13)])  # fmt: skip
    return messages


def shard(rank, world, model, parts):
    from torch.distributed.fsdp import fully_shard

    fully_shard(model)
    before = {name: value.full_tensor().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with pytest.raises(ValueError, match="sharded over processes") as refused:
        Reorganizer(model, optimizer, parts[rank], classes=10)
    after = {name: value.full_tensor() for name, value in model.named_parameters()}
    assert all(torch.equal(before[name], value) for name, value in after.items())
    return str(refused.value)


OPTIONS = {"layers": ["4", "8"], "recipe": Recipe.preserving(seed=1)}
FAILURES = {
    "data": ("channel", "channel"),
    "labels": ("process 1 failed: expected labels", "expected labels"),
    "loader": ("a batch must be", "process 0 failed: a batch must be"),
    "weights": ("'4.bias' differs", "'4.bias' differs"),
}


@pytest.fixture(scope="module")
def lacking(torch_batches):
    """Shares of two processes, the second of which has no sample of two classes."""
    first, second = shares(torch_batches, 2)
    return [first, [(x[y < 8], y[y < 8]) for x, y in second]]


@pytest.fixture(scope="module")
def two(_trained, _doubled, torch_batches, lacking, tmp_path_factory):
    """What two processes did, by task."""
    uneven, even = shares(torch_batches, 2), shares(torch_batches, 2, uneven=False)
    repeated = [[part[0]] * 2 for part in even]  # as many steps in both
    tasks = {
        "reorganize": (reorganize_share, (_trained, uneven, OPTIONS)),
        "missing class": (collect_share, (_trained, lacking, {})),
        "reorganize lacking": (reorganize_share, (_trained, lacking, OPTIONS)),
        "default": (default_share, (_doubled, lacking)),
        "pseudo-classes": (collect_share, (_trained, uneven, {"pseudo_classes": 5})),
        "train": (train_share, (_trained, repeated, False)),
        "freeze": (freeze_share, (_trained, even)),
        **{how: (fail, (_trained, uneven, how)) for how in FAILURES},
        "shard": (shard, (_trained, uneven)),
    }
    return in_processes(2, tasks, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(_trained, torch_batches, tmp_path_factory):
    """What four processes did, by task."""
    tasks = {"reorganize": (reorganize_share, (_trained, shares(torch_batches, 4), OPTIONS))}
    return in_processes(4, tasks, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def two_on_gpu(_trained, torch_batches, tmp_path_factory):
    """What two processes did on one GPU."""
    arguments = (_trained, shares(torch_batches, 2), OPTIONS, "cuda")
    tasks = {"reorganize": (reorganize_share, arguments)}
    return in_processes(2, tasks, tmp_path_factory.mktemp("two_on_gpu"))


@pytest.mark.parametrize(
    "world",
    [
        "two",
        pytest.param("four", marks=pytest.mark.nightly),
        pytest.param("two_on_gpu", marks=pytest.mark.gpu),
    ],
)
def test_all_processes_end_with_the_weights_of_one_that_had_all_data(
    trained_network, torch_batches, request, world
):
    everything = shares(torch_batches, 1)
    expected, momenta, report = reorganize_share(0, 1, trained_network, everything, OPTIONS)
    results = request.getfixturevalue(world)["reorganize"]
    for other in results[1:]:
        for kind in (0, 1):
            for name, value in results[0][kind].items():
                np.testing.assert_array_equal(value, other[kind][name], err_msg=name)
    for found, wanted in ((results[0][0], expected), (results[0][1], momenta)):
        for name, value in found.items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for figure in ("output_change", "largest_change", "agreement"):
        assert results[-1][2][figure] == pytest.approx(report[figure], rel=1e-3)
    assert results[0][2]["groups"][1]["after"] == results[-1][2]["groups"][1]["after"]


def test_a_class_may_be_missing_in_one_process(trained_network, two, lacking):
    together = [batch for part in lacking for batch in part]
    Q, counts, samples = collect_share(0, 1, trained_network, [together], {})
    for found in two["missing class"]:
        np.testing.assert_allclose(found[0], Q, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(found[1], counts)
        assert found[2] == samples


def test_weights_are_equal_where_a_class_is_missing_in_one_process(trained_network, two, lacking):
    together = [batch for part in lacking for batch in part]
    expected, _, _ = reorganize_share(0, 1, trained_network, [together], OPTIONS)
    (first, _, _), (second, _, _) = two["reorganize lacking"]
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_by_default_all_processes_free_what_is_redundant(two, duplicated_network):
    before = state(duplicated_network)
    (first, new, said), (second, other, silent) = two["default"]
    assert new == other
    assert new[0] == 0
    assert new[1] >= 16
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
        if name.startswith(("0.", "1.", "4.", "5.")):
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert len(said) == 1
    assert "'4.weight'" in said[0]
    assert not silent  # one process speaks for all


def test_pseudo_classes_are_those_of_all_processes(two):
    first, second = two["pseudo-classes"]
    for kind in (0, 1, 2):
        np.testing.assert_array_equal(first[kind], second[kind])
    assert first[1].sum() == first[2] == 640


def test_data_parallel_training_with_its_own_statistics(two):
    first, second = two["train"]
    statistic = "9.running_mean"
    for one, other in zip(first, second, strict=True):
        # Between two forward passes each process has the statistics of its own batches.
        assert not np.array_equal(one[0][statistic], other[0][statistic])
        assert one[2] == other[2]
        for name, value in one[1].items():
            if one[2]:
                np.testing.assert_array_equal(value, other[1][name], err_msg=name)
    assert [event[2] for event in first] == [True, True, True, False]


@pytest.mark.parametrize("how", FAILURES)
def test_where_one_process_fails_all_raise_and_none_changes(two, how):
    for found, expected in zip(two[how], FAILURES[how], strict=True):
        assert found[0] == "ValueError"
        assert expected in found[1]
        assert found[2]


def test_freezing_needs_a_wrapper_that_expects_it(two):
    for message, kept in two["freeze"]:
        assert "find_unused_parameters=True" in message
        assert kept == [True, True, False, False]


def test_a_fully_sharded_model_is_refused(two):
    for message in two["shard"]:
        assert isinstance(message, str), message
        assert "DistributedDataParallel" in message


if __name__ == "child":
    process(*task)  # noqa: F821  given by in_processes
