import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import arrays, collect, reorganize, shrink, trace  # noqa: E402
from rejuvenet.adapters.torch.batches import Batches, preserved_randomness  # noqa: E402
from rejuvenet.adapters.torch.distributed import Processes  # noqa: E402
from rejuvenet.adapters.torch.gradients import loss_gradients  # noqa: E402
from rejuvenet.adapters.torch.passes import forward  # noqa: E402
from torch import nn  # noqa: E402

LAYER = "8.weight"


@pytest.fixture
def traced(trained_network, torch_batches):
    return trace(trained_network, torch_batches[0][0][:2])


def activations(network, x):
    """What the linear layer's pooling reads, by running the layers one by one."""
    with torch.no_grad():
        return nn.Sequential(*list(network)[:11])(x).double().numpy()


def test_class_means_are_those_of_all_activations_together(traced, torch_batches):
    means = collect(traced, torch_batches, [LAYER])[LAYER]
    values = np.concatenate([activations(traced.model, x) for x, _ in torch_batches])
    y = torch.cat([y for _, y in torch_batches])
    naive = np.stack([values[y.numpy() == c].mean(0) for c in range(10)])
    np.testing.assert_array_equal(means.Q, naive.astype(means.Q.dtype))  # sums are more precise
    np.testing.assert_array_equal(means.counts, np.bincount(y, minlength=10))
    np.testing.assert_allclose(means.activity, np.abs(values).mean((0, 2, 3)), rtol=1e-5)


def test_all_groups_at_once_equal_one_at_a_time(traced, torch_batches):
    together = collect(traced, torch_batches)
    assert set(together) == {"0.weight", "4.weight", "8.weight"}
    for name, means in together.items():
        np.testing.assert_array_equal(means.Q, collect(traced, torch_batches, [name])[name].Q)


@pytest.mark.parametrize("kind", ["weights", "dict", "unpack", "iterator", "column"])
def test_forms_of_batches_give_the_same_means(traced, torch_batches, kind):
    expected = collect(traced, torch_batches, [LAYER])[LAYER]
    unpack = None
    if kind == "weights":
        batches = [(x, nn.functional.one_hot(y, 10).float()) for x, y in torch_batches]
    elif kind == "dict":
        batches = [{"image": x, "label": y.numpy()} for x, y in torch_batches]
    elif kind == "iterator":
        batches = iter(torch_batches)
    elif kind == "column":
        batches = [(x, y[:, None]) for x, y in torch_batches]
    else:
        batches = [("id", x, y) for x, y in torch_batches]
        unpack = lambda batch: batch[1:]  # noqa: E731
    means = collect(traced, batches, [LAYER], unpack=unpack)[LAYER]
    np.testing.assert_allclose(means.Q, expected.Q, rtol=1e-6, atol=1e-7)


def test_devices_with_atomic_additions_give_the_same_means(traced, torch_batches, monkeypatch):
    expected = collect(traced, torch_batches, [LAYER])[LAYER]
    monkeypatch.setattr(arrays, "ROW_BY_ROW", frozenset())
    means = collect(traced, torch_batches, [LAYER])[LAYER]
    np.testing.assert_array_equal(means.Q, expected.Q)


def test_soft_labels_weigh_samples(traced, torch_batches):
    x, _ = torch_batches[0]
    weights = torch.rand(len(x), 3, generator=torch.Generator().manual_seed(0))
    means = collect(traced, [(x, weights)], [LAYER])[LAYER]
    values = activations(traced.model, x)
    w = weights.double().numpy()
    naive = np.einsum("nc,nohw->cohw", w, values) / w.sum(0)[:, None, None, None]
    np.testing.assert_allclose(means.Q, naive, rtol=1e-5, atol=1e-7)


def test_without_labels_there_is_one_class(traced, torch_batches):
    means = collect(traced, [x for x, _ in torch_batches], [LAYER], max_batches=2)[LAYER]
    assert means.Q.shape[0] == 1
    assert means.samples == 256


def test_nothing_of_the_model_and_no_random_state_changes(traced, torch_batches):
    model = traced.model
    model.train()
    model[5].eval()
    modes = [m.training for m in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    dataset = torch.utils.data.TensorDataset(*torch_batches[0])
    loader = torch.utils.data.DataLoader(dataset, 64, shuffle=True)
    collect(traced, loader, [LAYER], classes=10)
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_modes_are_restored_after_a_failure(traced, torch_batches):
    model = traced.model.train()
    model[5].eval()
    modes = [m.training for m in model.modules()]
    broken = [(x[:, :, :2, :2], y) for x, y in torch_batches]  # too small to be pooled
    model[3].kernel_size = 4
    with pytest.raises(RuntimeError):
        collect(traced, broken, [LAYER])
    assert modes == [m.training for m in model.modules()]


def test_preserved_randomness_would_notice():
    state = torch.get_rng_state()
    with preserved_randomness():
        torch.rand(1)
        assert not torch.equal(state, torch.get_rng_state())
    assert torch.equal(state, torch.get_rng_state())


def test_varying_sizes_are_pooled_to_the_first(traced, torch_batches):
    x, y = torch_batches[0]
    larger = nn.functional.interpolate(x, scale_factor=2)
    means = collect(traced, [(x, y), (larger, y)], [LAYER])[LAYER]
    pooled = activations(traced.model, larger)
    pooled = nn.functional.adaptive_avg_pool2d(torch.from_numpy(pooled), (4, 4)).numpy()
    values = np.concatenate([activations(traced.model, x), pooled])
    labels = np.concatenate([y, y])
    naive = np.stack([values[labels == c].mean(0) for c in range(10)])
    np.testing.assert_allclose(means.Q, naive, rtol=1e-5, atol=1e-6)


def test_memory_budget_pools_and_is_refused_when_hopeless(traced, torch_batches):
    means = collect(traced, torch_batches, [LAYER], classes=10, max_bytes=10 * 16 * 8 * 4)
    assert means[LAYER].Q.shape == (10, 16, 2, 2)
    with pytest.raises(ValueError, match="bytes"):
        collect(traced, torch_batches, [LAYER], classes=10, max_bytes=1000)


def test_a_class_without_samples_is_named(traced, torch_batches):
    batches = [(x[y != 3], y[y != 3]) for x, y in torch_batches]
    names = ["zero", "one", "two", "three", *range(4, 10)]
    with pytest.raises(ValueError, match=r"'8.weight'.*none of 'three'"):
        collect(traced, batches, [LAYER], classes=names)


def test_not_a_number_is_named_with_its_channel(traced, torch_batches):
    with torch.no_grad():
        traced.model[9].weight[5] = float("nan")
    with pytest.raises(ValueError, match=r"'8.weight'.*channel 5"):
        collect(traced, torch_batches, [LAYER])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "empty"),
        ([(torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.long))], "3 inputs"),
        ([(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, -1]))], "got -1"),
        ([(torch.zeros(3, 1, 8, 8), torch.zeros(3))], "integer labels"),
        ([(torch.zeros(3, 1, 8, 8), torch.full((3, 2), -0.5))], "of at least 0, got -0.5"),
        ([(torch.zeros(3, 1, 8, 8), torch.full((3, 2), torch.nan))], "of at least 0, got nan"),
        ([3], "got int"),
        (torch.zeros(2), "iterable"),
    ],
)
def test_bad_batches_get_one_sentence(traced, batches, message):
    with pytest.raises(ValueError, match=message):
        collect(traced, batches, [LAYER])


def test_several_inputs_are_keyword_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, first, second):
            return self.b(torch.relu(self.a(first) + self.a(second)))

    first, second = torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8)
    model = Two()
    batch = {"first": first, "second": second, "labels": torch.arange(6) % 2}
    traced = trace(model, Batches([batch], model).example())
    means = collect(traced, [batch], "all")["a.weight"]
    with torch.no_grad():
        values = torch.relu(model.a(first) + model.a(second))
    np.testing.assert_allclose(means.Q[0], values[::2].mean(0), rtol=1e-5, atol=1e-6)


class Counting:
    """Batches that count how often they are read."""

    def __init__(self, batches):
        self.batches, self.reads = batches, 0

    def __iter__(self):
        self.reads += 1
        yield from self.batches


def test_multi_label_targets_count_a_sample_for_each_of_its_classes(traced, torch_batches):
    x, y = torch_batches[0]
    several = torch.zeros(len(x), 10, dtype=torch.long)
    several[torch.arange(len(x)), y] = 1
    several[:, 0] = 1
    means = collect(traced, [(x, several)], [LAYER])[LAYER]
    values = activations(traced.model, x)
    np.testing.assert_allclose(means.Q[0], values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(means.Q[7], values[y.numpy() == 7].mean(0), rtol=1e-5, atol=1e-6)


def test_pseudo_classes_group_what_the_model_sees_alike(traced, torch_batches):
    images = [x for x, _ in torch_batches]
    means = collect(traced, images, [LAYER], pseudo_classes=10)[LAYER]
    labels = torch.cat([y for _, y in torch_batches]).numpy()
    values = np.concatenate([activations(traced.model, x) for x in images]).mean((2, 3))
    centers = means.Q.mean((2, 3))
    cluster = ((values[:, None] - centers) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(np.bincount(cluster, minlength=10), means.counts)
    pure = sum(np.bincount(labels[cluster == c]).max() for c in range(10)) / len(labels)
    assert pure > 0.6  # by chance 0.15
    again = collect(traced, images, [LAYER], pseudo_classes=10)[LAYER]
    np.testing.assert_array_equal(means.Q, again.Q)
    with pytest.raises(ValueError, match="at least 1000 samples"):
        collect(traced, images, [LAYER], pseudo_classes=1000)


def test_bytes_are_known_before_the_first_batch(traced, torch_batches):
    batches = Counting(torch_batches)
    with pytest.raises(ValueError, match="need 1,280 bytes at 1 x 1"):
        collect(traced, batches, [LAYER], classes=10, max_bytes=1000)
    assert batches.reads == 0
    both = [LAYER, "4.weight"]
    whole = collect(traced, torch_batches, both, classes=10)
    assert {m.sums.shape[2:] for m in whole.values()} == {(4, 4)}
    smaller = collect(traced, torch_batches, both, classes=10, max_bytes=8 * 10 * 32 * 16 // 4)
    assert {m.sums.shape[2:] for m in smaller.values()} == {(2, 2)}


class Cast(nn.Module):
    """Runs a network in half precision of its own accord."""

    def __init__(self, network, dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x):
        with torch.autocast("cpu", dtype=self.dtype):
            return self.network(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_full(traced, torch_batches, dtype):
    x, y = torch_batches[0]
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        values = nn.Sequential(*list(traced.model)[:11])(x)
    assert values.dtype == dtype
    values = values.double().numpy()
    naive = np.stack([values[y.numpy() == c].mean(0) for c in range(10)])
    model = Cast(traced.model, dtype)
    cast = trace(model, x[:2])
    name = f"network.{LAYER}"
    for labels in (y, nn.functional.one_hot(y, 10).float()):
        means = collect(cast, [(x, labels)], [name])[name]
        np.testing.assert_allclose(means.Q, naive, rtol=1e-6, atol=1e-8)


def test_autocast_around_a_pass_changes_nothing(traced, torch_batches):
    expected = collect(traced, torch_batches, [LAYER])[LAYER]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        means = collect(traced, torch_batches, [LAYER])[LAYER]
    np.testing.assert_array_equal(means.Q, expected.Q)


def test_a_pass_ends_at_what_it_looks_at(traced, torch_batches):
    calls = []
    handle = traced.model[13].register_forward_hook(lambda *_: calls.append(1))
    collect(traced, torch_batches, ["4.weight"])
    assert not calls
    forward(traced, (torch_batches[0][0],), {})
    assert calls
    handle.remove()


def test_one_reorganization_reads_the_data_once(trained_network, torch_batches):
    batches = Counting(torch_batches)
    report = reorganize(trained_network, batches, example_inputs=torch_batches[0][0][:2])
    assert batches.reads == 1
    # Class means; before and after side by side; statistics of the normalization; outputs after.
    assert report.passes == 5


def test_without_room_the_data_are_read_again(trained_network, torch_batches, monkeypatch):
    from rejuvenet.graph import batches as module

    network = copy.deepcopy(trained_network)
    reorganize(trained_network, torch_batches)
    kept = trained_network.state_dict()
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    batches = Counting(torch_batches)
    report = reorganize(network, batches, example_inputs=torch_batches[0][0][:2])
    assert batches.reads == 4
    assert report.passes == 5
    for name, value in network.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_the_loader_s_own_generator_is_put_back(traced, torch_batches):
    dataset = torch.utils.data.TensorDataset(*torch_batches[0])
    own = torch.Generator().manual_seed(5)
    loader = torch.utils.data.DataLoader(dataset, 64, shuffle=True, generator=own)
    state = own.get_state()
    first = [y.copy() for _, y in Batches(loader, traced.model).read("labels")]
    second = [y.copy() for _, y in Batches(loader, traced.model).read("labels")]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(own.get_state(), state)


def test_gradients_of_the_loss(traced, torch_batches):
    model = traced.model
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    names = ["4.weight", "8.weight"]
    found = loss_gradients(traced, Batches(torch_batches[:2], model), names, Processes())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    x, y = (torch.cat(part) for part in zip(*torch_batches[:2], strict=True))
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    for name, expected in (("4.weight", model[4]), ("8.weight", model[8])):
        np.testing.assert_allclose(found[name], expected.weight.grad, rtol=1e-4, atol=1e-7)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, y):
        return self.o(self.b(self.a(x).relu() + self.a(y).relu() / 2).relu())


def test_one_tensor_may_be_several_inputs():
    """In all batches, in some or in the example: the figures are those of equal tensors."""
    torch.manual_seed(0)
    model, (x, y, z) = Siamese(), torch.randn(3, 40, 6)
    labels = torch.arange(40) % 3
    found = []
    for again, example in ((x, None), (x.clone(), None), (x, (z, z)), (x.clone(), (z, y))):
        batches = [((x, again), labels), ((y, z), labels)]
        changed = copy.deepcopy(model)
        report = shrink(changed, batches, ratio=0.5, example_inputs=example)
        found.append((report.output_change, changed.b.weight.tolist()))
    assert all(other == found[0] for other in found)
