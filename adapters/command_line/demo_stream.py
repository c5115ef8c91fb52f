"""Data that keep changing, in half a minute: a network that forgets how to learn, and one that not.

scikit-learn's digits, whose pixels are shuffled anew for every task (permuted digits, after
Goodfellow et al. 2013, arXiv 1312.6211).  Every task asks for the same, so that a network that
learns the tenth one worse than the first has lost something.  What is counted is the accuracy on
every batch before it is learned.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..torch import Reorganizer

STEPS, BATCH, RATE = 225, 16, 3e-3  # two epochs of 1,797 digits a task; Adam
EVERY = 450  # steps from event to event


def digits_stream(reorganized: bool, tasks: int, seed: int) -> list[float]:
    """Accuracy on every task while it is learned, by plain training or with a ``Reorganizer``.

    Two hidden layers of 100 units.  With the same seed the weights, the shuffled pixels and the
    batches are the same.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    reorganizer = None
    if reorganized:
        reorganizer = Reorganizer(
            model, optimizer, layers="all", every_steps=EVERY, example_inputs=x[:2], seed=seed
        )
    online = []
    for _ in range(tasks):
        shuffled = x[:, rng.permutation(64)]
        order = np.concatenate([rng.permutation(len(x)) for _ in range(3)])[: STEPS * BATCH]
        right = 0
        for rows in order.reshape(STEPS, BATCH):
            inputs, wanted = shuffled[rows], y[rows]
            scores = model(inputs)
            right += int((scores.argmax(1) == wanted).sum())
            optimizer.zero_grad()
            nn.functional.cross_entropy(scores, wanted).backward()
            optimizer.step()
            if reorganizer is not None:
                reorganizer.step(inputs, wanted)
        online.append(right / (STEPS * BATCH))
    return online
