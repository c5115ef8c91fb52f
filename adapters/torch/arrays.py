"""Sums over activations that stay on their device (:class:`rejuvenet.graph.arrays.Arrays`)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ...graph.arrays import Extent, evenly, rows_of_a_sample, two_axes
from ...graph.find.channels import Tap
from ...graph.find.nodes import Window

BLOCK = 2**20  # elements
ROW_BY_ROW = frozenset({"cpu"})  # devices on which samples are added one by one


class TorchArrays:
    """:class:`rejuvenet.graph.arrays.Arrays` of tensors.

    On a CPU samples are added one by one: the conversion to float64 then happens on the way and
    needs no copy, three to six times as fast for large taps as one call for all.  Other devices
    get that call, ``index_put_``, which adds in a fixed order on a GPU as well, where
    ``index_add_`` does not.
    """

    def channels_first(self, x: torch.Tensor, tap: Tap, n: int) -> torch.Tensor:
        rows = rows_of_a_sample(tap, tuple(x.shape), n)
        x = x.detach().movedim((tap.samples, tap.axis), (0, 1))
        index = tap.index.ravel()
        if not np.array_equal(index, np.arange(x.shape[1])):
            x = x.index_select(1, torch.as_tensor(index, device=x.device))
        if tap.index.ndim > 1:
            x = x.unflatten(1, tap.index.shape)
        if rows > 1:
            x = x.unflatten(0, (n, rows)).movedim(1, 2)
        return x.reshape(*x.shape[:2], *two_axes(tuple(x.shape[2:])))

    def pooled(self, x: torch.Tensor, extent: Extent) -> torch.Tensor:
        if tuple(x.shape[2:]) == tuple(extent):
            return x
        with full_precision(x.device):
            x = x if x.dtype == torch.float64 else x.float()
            return F.adaptive_avg_pool2d(x, extent)

    def magnitudes(self, x: torch.Tensor) -> np.ndarray:
        mean = torch.float64 if x.dtype == torch.float64 else torch.float32
        exact = exact_type(x.device)
        with full_precision(x.device):
            if x.device.type == "cpu" and x.numel() and x.amin() >= 0:  # elsewhere it would wait
                return self.to_numpy(x.mean((2, 3), dtype=mean).sum(0, dtype=exact))
            # Blocks of a size that stays in the cache.
            block = max(1, BLOCK // max(1, x[:1].numel()))
            parts = [rows.abs().mean((2, 3), dtype=mean) for rows in x.split(block)]
            return self.to_numpy(torch.cat(parts).sum(0, dtype=exact))

    def sums_by_class(
        self, sums: torch.Tensor | None, x: torch.Tensor, labels: np.ndarray, classes: int
    ) -> torch.Tensor:
        flat, exact = x.flatten(1), exact_type(x.device)
        if sums is None:
            sums = torch.zeros(classes, flat.shape[1], dtype=exact, device=x.device)
        elif len(sums) < classes:
            sums = F.pad(sums, (0, 0, 0, classes - len(sums)))
        with full_precision(x.device):
            if labels.ndim == 2:
                weights = torch.as_tensor(labels, dtype=exact, device=x.device)
                sums.addmm_(weights.T, flat.to(exact))
            elif x.device.type in ROW_BY_ROW:
                for row, label in zip(flat, labels.tolist(), strict=True):
                    sums[label].add_(row)
            else:
                index = torch.as_tensor(labels, device=x.device).long()
                sums.index_put_((index,), flat.to(exact), accumulate=True)
        return sums

    def moments(self, x: torch.Tensor, axis: int) -> tuple[np.ndarray, np.ndarray, int]:
        x = x.detach().movedim(axis, 0).flatten(1)
        with full_precision(x.device):
            x = x.to(exact_type(x.device))
            return self.to_numpy(x.sum(1)), self.to_numpy((x * x).sum(1)), x.shape[1]

    def positions(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2)
        chosen = evenly(x.shape[2])
        if chosen is None:
            return x.clone()
        return x.index_select(2, torch.as_tensor(chosen, device=x.device))

    def picked(self, x: torch.Tensor, places: np.ndarray) -> torch.Tensor:
        return x.flatten(2).index_select(2, torch.as_tensor(places, device=x.device))

    def patches(
        self, x: torch.Tensor, windows: Sequence[Window], kernel: Sequence[int], at: np.ndarray
    ) -> torch.Tensor:
        rows, columns = windows
        x = F.pad(x, (columns.before, columns.after, rows.before, rows.after))
        for axis, (k, window) in enumerate(zip(kernel, windows, strict=True)):
            x = x.unfold(2 + axis, (k - 1) * window.dilation + 1, window.stride)
        i, j = torch.as_tensor(at, device=x.device)
        found = x[..., :: rows.dilation, :: columns.dilation][:, :, i, j].movedim(2, -1)
        found = found.flatten(1, 3)
        return torch.cat([found, torch.ones_like(found[:, :1])], 1)

    def gram(self, x: torch.Tensor, y: torch.Tensor, samples: np.ndarray) -> np.ndarray:
        index = torch.as_tensor(samples, device=x.device)

        def rows(z: torch.Tensor) -> torch.Tensor:
            return z.index_select(0, index).movedim(1, 0).flatten(1).to(exact_type(z.device))

        with full_precision(x.device):
            a = rows(x)
            return self.to_numpy(a @ (a if y is x else rows(y)).T)

    def to_numpy(self, x: torch.Tensor) -> np.ndarray:
        return x.detach().cpu().double().numpy()


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """No autocast in this block: sums are made in the types that their tensors have."""
    return torch.autocast(device.type, enabled=False)


def exact_type(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float32 if device.type == "mps" else torch.float64
