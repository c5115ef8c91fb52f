"""What the callbacks share."""

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.trainers.deferred import DeferredReorganizer, restarting  # noqa: E402
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, StepLR  # noqa: E402

OPTIMIZER = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)


@pytest.mark.parametrize(
    ("cycle", "factor", "steps", "due"),
    [
        (2, 1, 1, [1, 3, 5, 7]),  # stepped once an epoch
        (2, 2, 1, [1, 5]),
        (8, 1, 4, [1, 3, 5, 7]),  # once for each of four batches
        (6, 1, 4, [1, 2, 4, 5, 7]),  # in the middle of epochs as well
        (3, 1, 1.5, [1, 3, 5, 7]),
    ],
)
def test_epochs_in_which_the_rate_restarts(cycle, factor, steps, due):
    schedule = CosineAnnealingWarmRestarts(OPTIMIZER, cycle, factor)
    after = restarting([(StepLR(OPTIMIZER, 1), steps), (schedule, steps)])
    assert [epoch for epoch in range(8) if after(epoch)] == due


def test_a_schedule_without_restarts_is_refused():
    with pytest.raises(ValueError, match="the trainer has StepLR"):
        restarting([(StepLR(OPTIMIZER, 1), 1)])


def test_calibration_data_are_needed(task):
    with pytest.raises(ValueError, match="no training data to calibrate with"):
        DeferredReorganizer(None, None, "", {})._start(task.model(), None, None, 5, 0)
