r"""A fitted map as an ONNX file: nodes, distances, classes and numbers wherever ONNX runs.

The graph computes :meth:`.SOFM.predict` and :meth:`.SOFM.transform`.  Samples
``x`` and nodes ``w`` are centred on about the codebook's mean, so that an offset of the data costs
no digits, and

.. math::  |x - w|^2 = |x|^2 + (|w|^2 - 2 x.w) ,

of which the bracket, one matrix product, decides which node is nearest.  The distance to that node
is then taken difference by difference, for where it is small a product has no digits of it.  Where
values are missing (NaN), only features that a sample has are compared.  Metrics without means
(``sofm/metrics.py``) take all distances so, which needs N times K times D numbers of memory: pass
few samples at a time.

``skl2onnx`` is imported where a pipeline is exported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import checker, helper, numpy_helper
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ...sofm import SOFM, SOMClassifier, SOMRegressor
from ...sofm.metrics import has_means, unit_vectors
from ...sofm.parameters import wrong

MODELS = (SOFM, SOMClassifier, SOMRegressor)
OUTPUTS: dict[type, tuple[str, ...]] = {
    SOFM: ("label", "distances"),
    SOMClassifier: ("label", "probabilities"),
    SOMRegressor: ("variable",),
}


class Steps:
    """Operators one after the other, and the constants that they read.

    Parameters
    ----------
    opset : int
        18 moved the axes of reductions from attributes to inputs.
    named : callable
        Makes a new name from a word.
    """

    def __init__(self, opset: int, named: Callable[[str], str]) -> None:
        self.opset, self.named = opset, named
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, NDArray] = {}

    def __call__(self, operator: str, *inputs, to: str | None = None, **attributes) -> str:
        """The name of the output, ``to`` if given; inputs are names or arrays."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = self.named(operator.lower()) if to is None else to
        self.nodes.append((operator, names, output, attributes))
        return output

    def constant(self, value) -> str:
        name = self.named("constant")
        self.constants[name] = np.asarray(value)
        return name

    def reduced(self, operator: str, x: str) -> str:
        """``x`` without its last axis."""
        if operator == "ReduceSum" or self.opset >= 18:
            return self(operator, x, np.array([-1], np.int64), keepdims=0)
        return self(operator, x, axes=[-1], keepdims=0)


def nearest(steps: Steps, som: SOFM, x: str, dtype) -> tuple[str, str]:
    """Labels (N,) and distances (N, K) of samples ``x`` (N, D)."""
    if not has_means(som.metric):
        distances = differences(steps, som, x, dtype)
        return steps("ArgMin", distances, axis=1, keepdims=0), distances
    W = som.codebook_.astype(np.float64)
    D = W.shape[1]
    ones = np.ones((D, 1), dtype)
    if som.metric == "correlation":
        x = steps("Sub", x, steps("MatMul", x, ones / dtype(D)))
    if som.metric != "euclidean":
        length = steps("Sqrt", steps("MatMul", steps("Mul", x, x), ones))
        x = steps("Div", x, length)
    mean = W.mean(axis=0)
    # A centre of few digits is subtracted without rounding.
    coarse = np.ldexp(0.25, np.frexp(np.abs(W - mean).max())[1])
    centre = (mean - np.fmod(mean, coarse)).astype(dtype)
    w = W - centre.astype(np.float64)
    x = steps("Sub", x, centre)
    squares_w: Any = (w * w).sum(axis=1).astype(dtype)
    if som.missing == "ignore":
        lost = steps("IsNaN", x)
        x = steps("Where", lost, np.zeros((), dtype), x)
        there = steps("Where", lost, np.zeros((), dtype), np.ones((), dtype))
        squares_w = steps("MatMul", there, (w * w).T.astype(dtype))
    scores = steps("Add", steps("MatMul", x, (-2 * w).T.astype(dtype)), squares_w)
    squares = steps("Add", scores, steps("MatMul", steps("Mul", x, x), ones))
    labels = steps("ArgMin", scores, axis=1, keepdims=0)
    apart = steps("Sub", x, steps("Gather", w.astype(dtype), labels))
    if som.missing == "ignore":
        apart = steps("Mul", apart, there)
    least = steps("MatMul", steps("Mul", apart, apart), ones)
    place = steps("Unsqueeze", labels, np.array([1], np.int64))
    squares = steps("ScatterElements", steps("Relu", squares), place, least, axis=1)
    if som.missing == "ignore":
        part = steps("Div", np.full((), D, dtype), steps("MatMul", there, ones))
        squares = steps("Mul", squares, part)
    return labels, steps("Sqrt", squares)


def differences(steps: Steps, som: SOFM, x: str, dtype) -> str:
    """Distances (N, K) of metrics without means."""
    W, globe = som.codebook_, som.metric == "haversine"
    if callable(som.metric):
        raise wrong("metric", "one with a name, which ONNX can compute", som.metric)
    if globe and dtype == np.float64:
        raise wrong("dtype", "numpy.float32 with metric='haversine' (arcs of float32)", dtype)
    if globe:
        W = unit_vectors(W)
        latitude, longitude = (
            steps("Gather", x, np.array([i], np.int64), axis=1) for i in range(2)
        )
        flat = steps("Cos", latitude)
        parts = [
            steps("Mul", flat, steps("Cos", longitude)),
            steps("Mul", flat, steps("Sin", longitude)),
            steps("Sin", latitude),
        ]
        x = steps("Concat", *parts, axis=1)
    each = steps("Unsqueeze", x, np.array([1], np.int64))
    apart = steps("Sub", each, W.astype(dtype))
    if not globe:
        operator = "ReduceSum" if som.metric == "manhattan" else "ReduceMax"
        return steps.reduced(operator, steps("Abs", apart))
    chord = steps("Sqrt", steps.reduced("ReduceSum", steps("Mul", apart, apart)))
    half = steps("Min", steps("Mul", chord, np.full((), 0.5, dtype)), np.ones((), dtype))
    return steps("Mul", steps("Asin", half), np.full((), 2, dtype))


def label_table(classes: NDArray) -> NDArray:
    """Classes as ONNX holds them: integers, numbers, or text."""
    if classes.dtype.kind in "biu":
        return classes.astype(np.int64)
    return classes.astype(np.float32 if classes.dtype.kind == "f" else object)


def answers(steps: Steps, model, x: str, dtype) -> list[tuple[str, np.dtype, tuple]]:
    """All operators from ``x`` (N, D) on; name, type and shape of each of :data:`OUTPUTS`."""
    if isinstance(model, SOFM):
        labels, distances = nearest(steps, model, x, dtype)
        return [(labels, np.dtype(np.int64), (None,)),
                (distances, np.dtype(dtype), (None, len(model.codebook_)))]  # fmt: skip
    node, _ = nearest(steps, model.som_, x, dtype)
    classifies = isinstance(model, SOMClassifier)
    table = model.node_probabilities_ if classifies else model.node_values_
    table = table.reshape(len(table), -1).astype(dtype)
    values = steps("Gather", table, node), table.dtype, (None, table.shape[1])
    if not classifies:
        return [values]
    best = label_table(model.classes_[model.node_probabilities_.argmax(axis=1)])
    return [(steps("Gather", best, node), best.dtype, (None,)), values]


def outputs_of(model) -> tuple[str, ...]:
    return next(names for kind, names in OUTPUTS.items() if isinstance(model, kind))


def to_onnx(model, *, dtype=np.float32, opset: int = 18):
    """A fitted map, or a pipeline that ends in one, as an ONNX model.

    Parameters
    ----------
    model : SOFM, SOMClassifier, SOMRegressor or Pipeline
        Fitted.  A pipeline needs ``skl2onnx``.
    dtype : {numpy.float32, numpy.float64}, default=numpy.float32
        Of the input ``X`` and of everything that is computed.
    opset : int, default=18
        Version of ONNX's operators, from 13.

    Returns
    -------
    proto : onnx.ModelProto
        With the input ``X`` (N, D).  Outputs of SOFM: ``label`` (N,), the node, and ``distances``
        (N, K), which skl2onnx calls ``scores`` in a pipeline; of SOMClassifier: ``label`` (N,) and
        ``probabilities`` (N, C); of SOMRegressor: ``variable`` (N, T).

    Raises
    ------
    ValueError
        The model is none of these, or ONNX cannot compute its metric.
    ImportError
        ``onnx``, or for a pipeline ``skl2onnx``, is not installed.

    Notes
    -----
    A winner can differ from :meth:`.SOFM.predict`, which searches in float64, where two
    nodes are equally near to the last digits of ``dtype``.  Nothing is checked: a row of zeros with
    the metric cosine gives NaN.

    Examples
    --------
    >>> from rejuvenet.adapters.onnx import to_onnx
    >>> from rejuvenet.sofm import SOFM
    >>> som = SOFM(shape=2).fit([[0.0], [0.1], [0.9], [1.0]])
    >>> [output.name for output in to_onnx(som).graph.output]
    ['label', 'distances']
    """
    dtype = np.dtype(dtype).type
    if dtype not in (np.float32, np.float64):
        raise wrong("dtype", "numpy.float32 or numpy.float64", dtype)
    if not isinstance(model, (*MODELS, Pipeline)):
        raise wrong("model", "a SOFM, SOMClassifier, SOMRegressor or Pipeline", model)
    check_is_fitted(model)
    if isinstance(model, Pipeline):
        return _pipeline_to_onnx(model, dtype, opset)

    count = iter(range(10**6))
    steps = Steps(opset, lambda word: f"{word}_{next(count)}")
    found = answers(steps, model, "X", dtype)
    described = [("X", np.dtype(dtype), (None, model.n_features_in_))]
    for name, (inner, kind, shape) in zip(outputs_of(model), found, strict=True):
        described.append((steps("Identity", inner, to=name), kind, shape))
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape)
        for name, kind, shape in described
    ]
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, names, [to], **more) for kind, names, to, more in steps.nodes],
            type(model).__name__, infos[:1], infos[1:],
            [numpy_helper.from_array(array, name) for name, array in steps.constants.items()],
        ),
        producer_name="rejuvenet", opset_imports=[helper.make_opsetid("", opset)],
    )  # fmt: skip
    proto.ir_version = helper.find_min_ir_version_for(proto.opset_import)
    checker.check_model(proto)
    return proto


def _pipeline_to_onnx(model, dtype, opset: int):
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    register_onnx_converters()
    kind = FloatTensorType if dtype == np.float32 else DoubleTensorType
    last = model[-1]
    return skl2onnx.to_onnx(
        model, initial_types=[("X", kind([None, model.n_features_in_]))], target_opset=opset,
        options={id(last): {"zipmap": False}} if isinstance(last, SOMClassifier) else None,
    )  # fmt: skip


def register_onnx_converters() -> None:
    """Let ``skl2onnx`` convert maps, so that its own ``to_onnx`` takes pipelines with them.

    Raises
    ------
    ImportError
        ``skl2onnx`` is not installed.

    Examples
    --------
    >>> from rejuvenet.adapters.onnx import register_onnx_converters
    >>> register_onnx_converters()
    """
    from skl2onnx import update_registered_converter

    for kind in MODELS:
        zipmap = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
        options = zipmap if kind is SOMClassifier else None  # of every classifier of skl2onnx
        name = f"Rejuvenet{kind.__name__}"
        update_registered_converter(kind, name, _set_shapes, _convert, options=options)


def _set_shapes(operator) -> None:
    """What skl2onnx has to know of the outputs."""
    from skl2onnx.common import data_types

    kinds = {
        "i": data_types.Int64TensorType, "O": data_types.StringTensorType,
        "f4": data_types.FloatTensorType, "f8": data_types.DoubleTensorType,
    }  # fmt: skip
    found = answers(Steps(18, str), operator.raw_operator, "X", _number(operator))
    for output, (_, kind, shape) in zip(operator.outputs, found, strict=True):
        made = kinds.get(kind.kind) or kinds[kind.str[1:]]
        output.type = made([operator.inputs[0].get_first_dimension(), *shape[1:]])


def _number(operator):
    """Floating type of an operator's input."""
    from skl2onnx.common.data_types import guess_numpy_type

    return np.float64 if guess_numpy_type(operator.inputs[0].type) == np.float64 else np.float32


def _convert(scope, operator, container) -> None:
    """Put the operators of a map among those of its pipeline."""

    steps = Steps(container.target_opset, scope.get_unique_variable_name)
    dtype = _number(operator)
    x = operator.inputs[0].full_name
    found = answers(steps, operator.raw_operator, x, dtype)
    for output, (inner, _, _) in zip(operator.outputs, found, strict=True):
        steps("Identity", inner, to=output.full_name)
    for name, array in steps.constants.items():
        values = array.ravel().tolist()
        number = helper.np_dtype_to_tensor_dtype(array.dtype)
        container.add_initializer(name, number, array.shape, values)
    for kind, names, to, more in steps.nodes:
        container.add_node(kind, names, to, name=scope.get_unique_operator_name(kind), **more)
