import copy
import json
import types

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, WarmUp, reorganize, trace  # noqa: E402
from rejuvenet.adapters.torch.training.freezing import weights_before  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402


def epoch(model, optimizer, batches, number):
    torch.manual_seed(number)
    model.train()
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make(model, batches, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    options = {"every": 2, "epochs": 8, "stop": 0.75, "ratio": 0.5, **options}
    return optimizer, Reorganizer(model, optimizer, batches, **options)


def test_events_come_every_r_epochs_until_stop(trained_network, torch_batches):
    _, reorganizer = make(trained_network, torch_batches[:1], classes=10)
    events = [n for n in range(8) if reorganizer.step(n) is not None]
    assert events == [1, 3, 5]
    assert [event["epoch"] for event in reorganizer.history] == events
    assert reorganizer.step(5) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": None, "epochs": 4}, "every=20 and stop=0.75 .* within 4 epochs"),
        ({"every": 2, "epochs": 4, "stop": 0.2}, "every=2 and stop=0.2 "),
        ({"every": {7}, "epochs": 8}, "every=.7. "),
    ],
)
def test_a_schedule_without_events_is_told_of(trained_network, torch_batches, options, said):
    with pytest.warns(UserWarning, match=f"nothing will be reorganized: {said}") as told:
        make(trained_network, torch_batches, **options)
    assert [warning.filename for warning in told] == [__file__]


def test_a_schedule_with_events_says_nothing(trained_network, torch_batches, recwarn):
    asked = []
    for options in ({"every": 3}, {"every": asked.append}, {"every": None, "epochs": None}):
        make(trained_network, torch_batches, **{"stop": None, **options})
    Reorganizer(trained_network, None, every_steps=400, example_inputs=torch_batches[0][0][:2])
    assert not recwarn
    assert asked == [0]


def test_the_history_holds_plans(duplicated_network, torch_batches):
    _, reorganizer = make(duplicated_network, torch_batches[:2], ratio="redundant")
    plan = reorganizer.step(1).plan.groups[0]
    state = json.loads(json.dumps(reorganizer.state_dict()))
    sources = state["history"][0]["sources"]["8.weight"]
    assert [place for place, channels in enumerate(sources) if not channels] == plan.new.tolist()
    for channels in sources:
        for channel in channels:
            assert (channel + 16) % 32 in channels  # with its copy
    assert state["history"][0]["recipe"]["ratio"] == "redundant"


def test_a_pass_over_the_data_does_not_disturb_the_training(trained_network, torch_batches):
    _, reorganizer = make(trained_network, torch_batches[:1], classes=10)
    trained_network.train()
    state = torch.get_rng_state()
    reorganizer.step(1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in trained_network.modules())


def test_the_recipe_may_depend_on_the_epoch(trained_network, torch_batches):
    _, reorganizer = make(
        trained_network,
        torch_batches[:1],
        classes=10,
        recipe=lambda n: Recipe(method="random", ratio=0.25 if n < 2 else 0.75),
        ratio=None,
    )
    assert reorganizer.step(1).groups[0].survivors == 4
    assert reorganizer.step(3).groups[0].survivors == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "8.weihgt"}, "did you mean"),
        ({"layers": "13"}, "cannot be reorganized"),
        ({"every": 0}, "every"),
        ({"stop": 2.0}, "stop"),
        ({"epochs": None}, "give epochs"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    trained_network, torch_batches, options, message
):
    with pytest.raises(ValueError, match=message):
        make(trained_network, torch_batches, **options)


def test_every_may_be_epochs_a_function_or_a_schedule_that_restarts(trained_network, torch_batches):
    def events(every, **options):
        _, reorganizer = make(
            trained_network, torch_batches[:1], classes=10, every=every, epochs=16, stop=None,
            **options,
        )  # fmt: skip
        return [n for n in range(16) if reorganizer.due(n)]

    optimizer = torch.optim.SGD(trained_network.parameters(), 0.1)
    schedules = torch.optim.lr_scheduler
    assert events({1, 4, 15}) == [1, 4]
    assert events(lambda n: n in (2, 3)) == [2, 3]
    assert events(3) == [2, 5, 8, 11]
    restarts = schedules.CosineAnnealingWarmRestarts(optimizer, 2, T_mult=2)
    assert events(restarts) == [1, 5, 13]
    rates = []
    for _ in range(16):
        optimizer.step()
        restarts.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert [n for n in range(15) if rates[n] == 0.1] == [1, 5, 13]
    with pytest.raises(ValueError, match="scheduler that restarts"):
        events(schedules.StepLR(optimizer, 2))
    with pytest.raises(ValueError, match="number of epochs"):
        events("often")


def test_restarts_after_a_warm_up(trained_network, torch_batches):
    optimizer = torch.optim.SGD(trained_network.parameters(), 0.1)
    schedules = torch.optim.lr_scheduler
    rise = schedules.LinearLR(optimizer, 0.1, total_iters=2)
    parts = [schedules.CosineAnnealingWarmRestarts(optimizer, 3, factor) for factor in (1, 2)]
    schedule = schedules.SequentialLR(optimizer, [rise, *parts], [2, 10])
    _, reorganizer = make(
        trained_network, torch_batches[:1], classes=10, every=schedule, epochs=23, stop=None
    )
    due = [n for n in range(23) if reorganizer.due(n)]
    rates = []
    for _ in range(24):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    # The rate rises until the third epoch; the second cosine begins with the eleventh.
    rises = [n - 1 for n in range(3, 23) if rates[n] > rates[n - 1] and n != 10]
    assert due == rises == [4, 7, 12, 18]
    schedule = schedules.SequentialLR(optimizer, [rise, schedules.StepLR(optimizer, 2)], [2])
    with pytest.raises(ValueError, match="SequentialLR of LinearLR, StepLR"):
        make(trained_network, torch_batches, every=schedule)


def test_restarts_of_timm(trained_network, torch_batches):
    timm = pytest.importorskip("timm.scheduler")
    optimizer = torch.optim.SGD(trained_network.parameters(), 0.1)
    schedule = timm.CosineLRScheduler(
        optimizer, t_initial=3, cycle_mul=2.0, cycle_limit=3, warmup_t=1, warmup_prefix=True
    )
    _, reorganizer = make(
        trained_network, torch_batches[:1], classes=10, every=schedule, epochs=30, stop=None
    )
    due = [n for n in range(30) if reorganizer.due(n)]
    rates = []
    for epoch in range(30):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    rises = [n - 1 for n in range(2, 30) if rates[n] > rates[n - 1]]
    assert due == rises == [3, 9]
    updates = timm.CosineLRScheduler(optimizer, t_initial=3, cycle_limit=3, t_in_epochs=False)
    with pytest.raises(ValueError, match="counts epochs"):
        make(trained_network, torch_batches, every=updates)
    with pytest.raises(ValueError, match="one cycle"):
        make(trained_network, torch_batches, every=timm.CosineLRScheduler(optimizer, t_initial=3))


def test_ratios_by_layer_and_epoch(trained_network, torch_batches):
    recipe = Recipe(method="random")
    _, reorganizer = make(
        trained_network, torch_batches[:1], layers=["4", "8"], classes=10, recipe=recipe,
        ratio={"8": lambda n: 0.25 if n < 2 else 0.75, "*": 0.5},
    )  # fmt: skip
    assert [group.survivors for group in reorganizer.step(1).groups] == [8, 4]
    assert [group.survivors for group in reorganizer.step(3).groups] == [8, 12]
    with pytest.raises(ValueError, match=r"4\.weight"):
        make(trained_network, torch_batches, layers=["4", "8"], ratio={"8": 0.5})


def test_layers_take_turns_and_what_lies_below_is_frozen(trained_network, torch_batches):
    batches = torch_batches[:1]
    optimizer, reorganizer = make(
        trained_network, batches, layers=["4", "8"], freeze_below=True, classes=10, stop=1.0
    )

    def trained():
        return {name for name, p in trained_network.named_parameters() if p.requires_grad}

    everything, below = trained(), {"0.weight", "1.weight", "1.bias"}
    middle = {"4.weight", "4.bias", "5.weight", "5.bias"}
    assert [g.group for g in reorganizer.step(1).groups] == ["4.weight"]
    assert trained() == everything - below
    before = {name: p.clone() for name, p in trained_network.named_parameters()}
    epoch(trained_network, optimizer, batches, 0)
    moved = {
        name
        for name, p in trained_network.named_parameters()
        if not torch.allclose(p, before[name], rtol=0, atol=1e-6)
    }
    assert moved == everything - below - {"4.bias"}  # the normalization behind cancels it
    assert [g.group for g in reorganizer.step(3).groups] == ["8.weight"]
    assert trained() == everything - below - middle
    assert [g.group for g in reorganizer.step(5).groups] == ["8.weight"]
    again = copy.deepcopy(trained_network).requires_grad_(True)
    _, other = make(again, batches, layers=["4", "8"], freeze_below=True, classes=10)
    other.load_state_dict(json.loads(json.dumps(reorganizer.state_dict())))
    assert {n for n, p in again.named_parameters() if not p.requires_grad} == below | middle
    reorganizer.step(7)  # the last epoch
    assert trained() == everything
    with pytest.raises(ValueError, match="layers by name"):
        make(trained_network, batches, layers="auto", freeze_below=True)


def test_branches_are_frozen_only_where_the_layer_reads_them():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.on_left, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            left = self.on_left(torch.relu(self.left(x)))
            return self.last(torch.cat([torch.relu(left), torch.relu(self.right(x))], 1))

    traced = trace(Branches(), torch.zeros(2, 3, 4, 4))
    for layer, expected in (
        ("left", set()),
        ("on_left", {"left.weight", "left.bias"}),
        ("right", set()),
    ):
        assert weights_before(traced.graph, traced.group(layer)) == expected


def test_the_groups_that_use_least_are_chosen_automatically(duplicated_network, torch_batches):
    report = reorganize(duplicated_network, torch_batches, "auto", Recipe(method="kmeans"))
    group = report["8.weight"]
    assert group.channels == 32
    assert group.new >= 16
    assert report.agreement > 0.95


def test_automatic_layers_with_a_ratio_of_their_own(duplicated_network, torch_batches):
    network, rest = duplicated_network, torch_batches[:2]
    report = Reorganizer(network, None, rest, layers="auto", every=1, ratio=1.0).step(0)
    (group,) = report.groups  # the others use their capacity
    assert (group.group, group.channels) == ("8.weight", 32)
    recipe = report.plan.recipe
    assert list(recipe.ratio) == ["8.weight"]
    assert 0.25 <= recipe.ratio["8.weight"] <= 0.4
    assert group.nodes == round(32 * recipe.ratio["8.weight"])


def test_by_default_only_what_is_redundant_is_freed(
    trained_network, duplicated_network, torch_batches
):
    before = copy.deepcopy(trained_network.state_dict())
    with pytest.warns(UserWarning, match="freed in '8.weight': nothing is redundant: its"):
        report = Reorganizer(trained_network, None, torch_batches, every=1).step(0)
    assert report["8.weight"].new == 0
    assert all(torch.equal(before[k], v) for k, v in trained_network.state_dict().items())
    report = Reorganizer(duplicated_network, None, torch_batches, every=1).step(0)
    assert report["8.weight"].new >= 16
    assert report.agreement > 0.95


def test_in_training_what_hardly_responds_is_freed_earlier(trained_network, torch_batches):
    """A channel of a twentieth of its layer's activity; 0.025 is what a file's must fall below."""
    seen = []
    hook = trained_network[10].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        trained_network(torch.cat([x for x, _ in torch_batches]))
        hook.remove()
        activity = seen[0].mean((0, 2, 3))
        for parameter in (trained_network[9].weight, trained_network[9].bias):
            parameter[3] *= 0.05 * activity.mean() / activity[3]
    twin = copy.deepcopy(trained_network)
    with pytest.warns(UserWarning, match="nothing was freed in '8.weight'"):
        reorganize(twin, torch_batches, recipe=Recipe.preserving(ratio="redundant"))
    report = Reorganizer(trained_network, None, torch_batches, every=1).step(0)
    assert report["8.weight"].new == 1


def test_nothing_to_free_is_said_with_the_reason(trained_network, torch_batches, caplog):
    _, reorganizer = make(trained_network, torch_batches[:1], classes=10, ratio=1.0)
    with torch.no_grad():
        before = trained_network(torch_batches[0][0])
    with (
        caplog.at_level("INFO", "rejuvenet"),
        pytest.warns(UserWarning, match="nothing was freed in '8.weight': each of its") as caught,
    ):
        report = reorganizer.step(1)
    assert len(caught) == 1
    assert report["8.weight"].new == 0
    with torch.no_grad():
        after = trained_network(torch_batches[0][0])
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    cost, event = (record.getMessage() for record in caplog.records)
    assert "passes" in cost
    assert event.startswith("epoch 1: 8.weight")
    assert "\n" not in event


class Writer:
    """Keeps pictures as TensorBoard's SummaryWriter is given them."""

    def __init__(self):
        self.pictures = {}

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HW"
        self.pictures[tag, step] = image


def test_pictures_of_the_activations_and_the_codebook(trained_network, torch_batches):
    writer = Writer()
    _, reorganizer = make(trained_network, torch_batches, classes=10, writer=writer)
    report = reorganizer.step(1)
    plan = report.plan.groups[0]
    shapes = {tag: image.shape for tag, image in writer.pictures.items()}
    assert shapes == {
        ("8.weight/activations before", 1): (10 * 5, 16 * 5),
        ("8.weight/activations after", 1): (10 * 5, 16 * 5),
        ("8.weight/codebook", 1): (10 * 5, len(plan.survivors) * 5),
    }
    assert all(image.max() > 100 for image in writer.pictures.values())


def test_pictures_in_a_real_event_file(trained_network, torch_batches, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    writer = tensorboard.SummaryWriter(tmp_path)
    reorganize(trained_network, torch_batches, writer=writer, step=4)
    writer.close()
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    assert len(events.Tags()["images"]) == 3
    assert events.Images("8.weight/codebook")[0].step == 4


def test_a_progress_bar_names_what_it_reads(trained_network, torch_batches, capsys):
    reorganize(trained_network, torch_batches[:2], classes=10, progress=True)
    shown = capsys.readouterr().err
    assert "class means" in shown
    assert "least squares" in shown


@pytest.mark.parametrize("name", ["sgd", "adam", "sharpness"])
def test_updates_of_new_channels_are_scaled(trained_network, torch_batches, name):
    model = trained_network
    make_inner = {
        "sgd": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, weight_decay=1e-2),
        "adam": lambda p: torch.optim.AdamW(p, 1e-3),
        "sharpness": lambda p: torch.optim.SGD(p, 1e-3),
    }[name]
    optimizer = inner = make_inner(model.parameters())
    if name == "sharpness":
        optimizer = types.SimpleNamespace(
            base_optimizer=inner, param_groups=inner.param_groups, state={}
        )
    warmup = WarmUp(steps=2, wait=1, factor=3.0, hold=1, back=2)
    reorganizer = Reorganizer(
        model, optimizer, torch_batches, every=1, classes=10, warmup=warmup,
        recipe=Recipe.preserving(new_outgoing="random"),
    )  # fmt: skip
    new = torch.as_tensor(reorganizer.step(0).plan.groups[0].new)
    twin = copy.deepcopy(model)
    mirror = make_inner(twin.parameters())
    for scale in (0.0, 1.5, 3.0, 3.0, 2.0, 1.0, 1.0):
        twin.load_state_dict(model.state_dict())
        mirror.load_state_dict(copy.deepcopy(inner.state_dict()))
        before = copy.deepcopy(model.state_dict())
        for each, steps in ((model, inner), (twin, mirror)):
            torch.manual_seed(1)
            nn.functional.cross_entropy(each(torch_batches[0][0]), torch_batches[0][1]).backward()
            steps.step()
            steps.zero_grad()
        for weight, axis in (("8.weight", 0), ("9.bias", 0), ("13.weight", 1)):
            start, ours, plain = (
                state[weight].movedim(axis, 0)
                for state in (before, model.state_dict(), twin.state_dict())
            )
            expected = plain.clone()
            expected[new] = start[new] + scale * (plain[new] - start[new])
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
            if scale != 1.0:
                assert not torch.equal(ours[new], plain[new])
    assert reorganizer.state_dict()["new_channels"] is None
    reorganizer.release()
    assert not inner._optimizer_step_pre_hooks
    with pytest.raises(TypeError, match="expected warmup to be a WarmUp, got 50"):
        Reorganizer(model, inner, torch_batches, warmup=50)


def small(frozen=False):
    """Two convolutions and a linear layer, half of whose channels have just begun."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 4),
    )  # fmt: skip
    x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    model[0].requires_grad_(not frozen)
    return model, x, y


def stepped(optimizer, model, x, y):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore:.*do not learn")
def test_the_scale_is_that_of_the_groups_that_the_optimizer_has_by_now():
    """Parameters added later, and groups that a loaded state has put in their place."""
    model, x, y = small(frozen=True)
    optimizer = torch.optim.SGD(model[2:].parameters(), 0.1)
    warmup = WarmUp(steps=5, wait=100)
    reorganizer = Reorganizer(
        model, optimizer, [(x, y)], layers="all", ratio=0.5, every=1, warmup=warmup
    )
    report = reorganizer.step(0)
    new = {group.group: group.new.tolist() for group in report.plan.groups}
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    before = copy.deepcopy(model.state_dict())
    stepped(optimizer, model, x, y)
    for name, axis, group in (("0.weight", 0, "0.weight"), ("2.weight", 1, "0.weight")):
        now, then = (state[name].movedim(axis, 0) for state in (model.state_dict(), before))
        assert torch.equal(now[new[group]], then[new[group]]), name
        assert not torch.equal(now, then)

    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    warmup = WarmUp(steps=0, factor="initial", hold=10)
    reorganizer = Reorganizer(
        model, optimizer, [(x, y)], layers="all", ratio=0.5, every=1, warmup=warmup
    )
    new = reorganizer.step(0).plan.groups[0].new.tolist()
    state = optimizer.state_dict()
    state["param_groups"][0] |= {"lr": 0.01, "initial_lr": 0.1}
    optimizer.load_state_dict(state)
    before = model[0].weight.detach().clone()
    stepped(optimizer, model, x, y)
    expected = before - 0.1 * model[0].weight.grad  # ten times the rate
    torch.testing.assert_close(model[0].weight[new], expected[new])


def test_each_optimizer_counts_its_own_steps():
    model, x, y = small()
    resting = torch.optim.SGD(model[0].parameters(), 0.1)
    steady = torch.optim.SGD(model[2:].parameters(), 0.1)
    reorganizer = Reorganizer(
        model, [resting, steady], [(x, y)], layers="all", ratio=0.5, every=1,
        warmup=WarmUp(steps=0, wait=2),
    )  # fmt: skip
    new = {g.group: g.new.tolist() for g in reorganizer.step(0).plan.groups}["2.weight"]
    moved = []
    for _ in range(3):
        before = model[5].weight.detach().clone()
        stepped(steady, model, x, y)
        change = (model[5].weight - before).unflatten(1, (8, -1))
        moved.append(bool(change[:, new].any()))
    assert moved == [False, False, True]
    state = reorganizer.state_dict()["new_channels"]
    assert state["steps"] == [0, 3]
    one = Reorganizer(model, steady, [(x, y)], layers="all", warmup=WarmUp(steps=1))
    with pytest.raises(ValueError, match="got 2"):
        one.load_state_dict(reorganizer.state_dict())


def test_new_channels_learn_at_the_first_rate_of_the_training(trained_network, torch_batches):
    optimizer = torch.optim.SGD(trained_network.parameters(), 0.01)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    assert WarmUp(steps=0, factor="initial", hold=1).scale(0, optimizer.param_groups[0]) == 10.0
    with pytest.raises(ValueError, match="hooks"):
        Reorganizer(trained_network, None, torch_batches, warmup=WarmUp(steps=3))


@pytest.mark.parametrize(
    ("options", "message"), [({"steps": -1}, "steps"), ({"steps": 1, "factor": "first"}, "factor")]
)
def test_wrong_warm_ups_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WarmUp(**options)


@pytest.mark.parametrize("method", ["redo", "repr", "dsd", "rigl", "l1", "l2", "random"])
def test_methods_to_compare_with(trained_network, torch_batches, method):
    optimizer, reorganizer = make(
        trained_network, torch_batches[:2], classes=10, recipe=Recipe.comparison(method)
    )
    epoch(trained_network, optimizer, torch_batches[:1], 0)
    report = reorganizer.step(1)
    assert report["8.weight"].new == 8
    assert json.loads(json.dumps(reorganizer.state_dict())) == reorganizer.state_dict()
    epoch(trained_network, optimizer, torch_batches[:1], 1)
    assert all(torch.isfinite(p).all() for p in trained_network.parameters())


def test_the_state_of_another_model_is_refused(trained_network, torch_batches):
    _, reorganizer = make(trained_network, torch_batches[:1])
    state = {**reorganizer.state_dict(), "frozen": ["features.0.weight"]}
    with pytest.raises(ValueError, match=r"'features\.0\.weight'"):
        reorganizer.load_state_dict(state)
    with pytest.raises(ValueError, match="without 'seed'"):
        reorganizer.load_state_dict({key: state[key] for key in state if key != "seed"})
