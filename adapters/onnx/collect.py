"""Class-representative activations of an ONNX model (eq. 1), batch by batch with onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...graph import collecting
from ...graph.find.channels import ChannelGroup
from ...graph.measure.class_means import ClassMeans
from ...graph.measure.class_sums import MAX_BYTES
from ...graph.plan.selection import Layers, listed
from .batches import OnnxBatches
from .model import OnnxModel
from .network import OnnxNetwork


def collect(
    model: OnnxModel,
    batches: Iterable[Any],
    groups: Layers = "all",
    classes: int | Sequence[str | int] | None = None,
    progress: bool = False,
    max_bytes: int = MAX_BYTES,
    *,
    pseudo_classes: int | None = None,
    size: int | tuple[int, int] | None = None,
    max_batches: int | None = None,
) -> dict[str, ClassMeans]:
    """Class means of the taps of several groups in one pass.

    Parameters
    ----------
    model : OnnxModel
    batches : iterable
        Yields ``(inputs, labels)``: an array for a model with one input, or a dict by input name;
        integer class labels of shape (n,), class weights of shape (n, C), or None.
    groups : sequence of ChannelGroup or str, or "all"
    classes : int or sequence, optional
        Number or names of the classes; by default those of ``batches.classes``, else the labels
        up to the highest one.
    progress : bool
        Show a progress bar.
    max_bytes : int
        Memory for the sums of all groups; taps are pooled until the sums fit.
    pseudo_classes : int, optional
        As many clusters of samples take the place of classes; one more pass.
    size : int or (int, int), optional
        Pool every tap to at most this extent.
    max_batches : int, optional

    Returns
    -------
    dict of str to ClassMeans
        By group name.

    Raises
    ------
    ValueError
        For a class without samples (named), activations that are not finite (group and channel
        named), inputs and labels that do not pair, or a group without activations.

    Examples
    --------
    >>> import numpy as np
    >>> import onnx_ir
    >>> from rejuvenet.adapters.onnx import collect, load
    >>> model = load(onnx_ir.from_onnx_text('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     example (float[n, 1] x) => (float[n, 2] y)
    ...     <float[1, 4] a = {1, -1, 2, -2}, float[4, 2] b = {1, 0, 0, 1, 1, 1, 1, 2}>
    ...     { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }'''))
    >>> x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    >>> batches = [(x, np.arange(20) // 10)]
    >>> means = collect(model, batches)["a"]
    >>> means.Q.shape, means.counts.tolist()  # classes, channels, height and width
    ((2, 4, 1, 1), [10.0, 10.0])
    """
    found: Layers = groups
    if groups != "all":
        found = [model.group(g) if isinstance(g, str) else g for g in listed(groups)]
    if classes is None and pseudo_classes is None:
        classes = getattr(batches, "classes", None)
    return collecting.collect(
        OnnxNetwork(model),
        OnnxBatches(batches, model, max_batches=max_batches, progress=progress),
        found,
        classes=classes,
        pseudo_classes=pseudo_classes,
        size=size,
        max_bytes=max_bytes,
    )


def described(
    model: OnnxModel,
    batches: Iterable[Any],
    groups: Sequence[ChannelGroup],
    progress: bool = False,
    max_bytes: int = MAX_BYTES,
) -> tuple[dict[str, ClassMeans], dict[str, str]]:
    """Class means, and why the other groups turned out to have none."""
    data = OnnxBatches(batches, model, progress=progress)
    classes = getattr(batches, "classes", None)
    return collecting.described(
        OnnxNetwork(model), data, groups, classes=classes, max_bytes=max_bytes
    )
