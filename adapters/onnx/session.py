"""Running ONNX models with onnxruntime, on the best execution provider at hand."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .external import Refused, file_of
from .operator_names import operator
from .operators.registration import LIBRARIES
from .own_statistics import adapt
from .pieces import Piece
from .storage import tensor_like

PREFERRED = ("CUDAExecutionProvider", "CPUExecutionProvider")
LARGE = 1 << 10  # bytes from which an initializer is handed over as an array
PACKED = 1 << 28  # bytes of weights up to which a second, rearranged copy is worth its memory
REORDERED = 1 << 30  # and up to which one of the convolutions is, which run 1.5 times faster so
NATIVE = {  # types that onnxruntime takes from numpy
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.DOUBLE,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT32,
}
_ALLOCATOR = threading.Lock()
LOOP_BYTES = 1 << 30  # of the memory for a run that stand for a second of a loop


def providers() -> list[str]:
    """Execution providers in the order in which they are tried."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    # A GPU build on a machine without a GPU offers the provider and fails loudly to load it.
    return [
        name
        for name in PREFERRED
        if name in available and (name != "CUDAExecutionProvider" or _has_cuda())
    ]


def _has_cuda() -> bool:
    return any(
        Path(place).exists() for place in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
    ) or (os.name == "nt")


@contextmanager
def swapped(model: ir.Model, weights: Mapping[str, np.ndarray]) -> Iterator[ir.Model]:
    """The model with other values of some weights, for as long as the block lasts.

    Names are those of initializers or of the outputs of ``Constant`` nodes.
    """
    kept_values: dict[str, ir.TensorProtocol] = {}
    kept_nodes: dict[ir.Node, ir.Attr] = {}
    constants = {str(n.outputs[0].name): n for n in model.graph if operator(n) == "Constant"}
    try:
        for name, array in weights.items():
            if name in model.graph.initializers:
                value = model.graph.initializers[name]
                assert value.const_value is not None  # an initializer has a value
                kept_values[name] = value.const_value
                value.const_value = tensor_like(value.const_value, array)
            elif name in constants:
                node = constants[name]
                kept_nodes[node] = attribute = next(iter(node.attributes.values()))
                node.attributes[attribute.name] = (
                    ir.AttrTensor("value", tensor_like(attribute.value, array))
                    if attribute.name == "value"
                    else ir.AttrFloat32s(attribute.name, array.tolist())
                )
            else:
                raise ValueError(f"the model has no weight {name!r}")
        yield model
    finally:
        for name, old in kept_values.items():
            model.graph.initializers[name].const_value = old
        for node, attribute in kept_nodes.items():
            node.attributes[attribute.name] = attribute


def session(
    model: ir.Model,
    outputs: Sequence[str] = (),
    adapting: Mapping[str, Sequence[int]] | None = None,
    piece: Piece | None = None,
    *,
    optimized: bool = True,
    capped: bool = False,
    threads: int | None = None,
) -> Any:
    """An inference session.

    Large initializers are handed over as arrays, so that a model of any size needs no temporary
    file; those that lie in other files are left there.

    Parameters
    ----------
    model : onnx_ir.Model
    outputs : sequence of str
        Intermediate tensors to return as well.
    adapting : mapping of tensor name to its shape, optional
        As for :func:`.own_statistics.adapt`, whose answer is the session's ``adapting``.
    piece : Piece, optional
        The part of the model to run, with its own outputs; what later ones read is the session's
        ``live``.
    optimized : bool
        Without, every tensor is computed as the model says.
    capped : bool
        Whether what is made counts against the cap of memory.
    threads : int, optional
        That an operator may use, for a session that is timed: weights are then rearranged, as
        onnxruntime does by default, whatever memory that takes.

    Raises
    ------
    ValueError
        onnxruntime cannot run the model; its reason in one line.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if capped:  # weights are no part of what is made
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    with light(model) as arrays:
        proto = _message(model)
    types = adapt(proto, adapting) if adapting else {}
    live = piece.cut(proto.graph) if piece is not None else frozenset()
    arrays = _still_read(proto, arrays) if adapting or piece is not None else arrays
    _expose(proto, outputs)
    _free(proto)
    held = sum(array.nbytes for array in arrays.values())
    if threads is not None:
        options.intra_op_num_threads = threads
    else:
        if not optimized or held > PACKED:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if optimized and held > REORDERED:
            level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.graph_optimization_level = level
    arrays = _left_in_files(proto, arrays, options)
    given = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    try:
        for library in dict.fromkeys(LIBRARIES):
            options.register_custom_ops_library(library)
        if given:
            options.add_external_initializers(list(arrays), given)
        made = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=providers()
        )
    except Exception as error:  # onnxruntime has a dozen error types of its own
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"onnxruntime cannot run the model: {reason}") from error
    made.given = given  # it reads the arrays where they lie, and does not keep them alive
    made.adapting, made.live = types, live
    return made


def _still_read(proto: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that an outermost node reads; statistics that none does get their values back."""
    read = {name for node in proto.graph.node for name in node.input}
    for tensor in proto.graph.initializer:
        if tensor.name in arrays and tensor.name not in read:
            tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return {name: array for name, array in arrays.items() if name in read}


def _left_in_files(
    proto: onnx.ModelProto, arrays: dict[str, np.ndarray], options: Any
) -> dict[str, np.ndarray]:
    """Refer to files that are mapped, which onnxruntime maps too; the arrays that are left.

    An array handed over is copied; so this is how a model larger than the memory is looked at.
    """
    places = {name: found for name, a in arrays.items() if (found := file_of(a)) is not None}
    folders = [str(path.parent) for path, _ in places.values()]
    if not folders:
        return arrays
    folder = folders[0]
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    for tensor in proto.graph.initializer:
        path, offset = places.get(tensor.name, (None, 0))
        if path is not None and str(path.parent) == folder:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = path.name
                elif entry.key == "offset":
                    entry.value = str(offset)
            arrays = {name: array for name, array in arrays.items() if name != tensor.name}
    return arrays


@contextmanager
def light(model: ir.Model) -> Iterator[dict[str, np.ndarray]]:
    """The model with references in place of large initializers, whose values are yielded."""
    kept: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    # onnxruntime looks for what it is given where the outermost nodes read it.
    read = {v.name for node in model.graph for v in node.inputs if v is not None}
    try:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            external = isinstance(tensor, ir.ExternalTensor)
            if tensor is None or not (external or tensor.nbytes >= LARGE):
                continue
            if tensor.dtype in NATIVE and name in read:
                arrays[name] = np.ascontiguousarray(tensor.numpy())
                light: Any = ir.ExternalTensor(
                    "given",
                    0,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=name,
                )
            elif external:
                light = ir.Tensor(tensor.numpy(), tensor.dtype, name=name)
            else:
                continue
            kept[name] = tensor
            value.const_value = light
        yield arrays
    finally:
        for name, tensor in kept.items():
            model.graph.initializers[name].const_value = tensor


def light_message(model: ir.Model) -> onnx.ModelProto:
    """The model as a message without the values of its large initializers."""
    with light(model):
        return _message(model)


def _message(model: ir.Model) -> onnx.ModelProto:
    try:
        return ir.to_proto(model)
    except ir.serde.SerdeError as error:  # such as names that are no text
        raise ValueError("the model is not valid: it cannot be written as ONNX") from error


class DoesNotRun(ValueError):
    """A model that onnxruntime knows fails on some inputs."""


def run_everything(
    model: ir.Model, candidates: Iterable[Mapping[str, np.ndarray]], max_bytes: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every tensor of the model, and the first of some inputs on which it runs.

    Raises
    ------
    Refused
        The tensors take more than ``max_bytes``, or a loop does not end.
    DoesNotRun
        onnxruntime fails on all of them; its reason for the first.
    ValueError
        It cannot run the model at all.
    """
    import onnxruntime

    names = [str(v.name) for node in model.graph for v in node.outputs if v.name]
    with _ALLOCATOR:  # of the process; a session keeps the one that it was made with
        taken = session(model, names, optimized=False, capped=_capped(max_bytes))
    produced = [o.name for o in taken.get_outputs()]
    looping = any(operator(node) == "Loop" for node in model.graph.all_nodes())
    failure: DoesNotRun | None = None
    for feeds in candidates:
        options = onnxruntime.RunOptions()
        try:
            with _limited(options, max_bytes / LOOP_BYTES if looping else None):
                values = dict(zip(produced, taken.run(produced, feeds, options), strict=True))
        except Exception as error:  # onnxruntime has a dozen error types of its own
            reason = " ".join(str(error).split())
            if options.terminate or "bfc_arena" in reason:
                what = "does not end" if options.terminate else f"takes over {max_bytes} bytes"
                raise Refused(
                    f"the model {what} on example inputs; if you trust the file, load it with a "
                    "higher max_bytes or set REJUVENET_MAX_BYTES in the environment"
                ) from error
            shapes = {name: x.shape for name, x in feeds.items()}
            failure = failure or DoesNotRun(
                f"the model cannot run on example inputs of the shapes {shapes}: {reason[:300]} "
                "(input_shapes=, --input-shape give others)"
            )
            continue
        return values | dict(feeds), dict(feeds)
    raise failure or DoesNotRun("there are no example inputs")


def _capped(max_bytes: int) -> bool:
    """Give the next sessions that ask for it an allocator of at most ``max_bytes`` in all.

    False where this onnxruntime keeps the one that came first.
    """
    import onnxruntime as ort

    kinds = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    try:
        ort.create_and_register_allocator(
            ort.OrtMemoryInfo("Cpu", *kinds),
            ort.OrtArenaCfg({"max_mem": max_bytes, "arena_extend_strategy": 1}),
        )
    except Exception:
        return False
    return True


@contextmanager
def _limited(options: Any, seconds: float | None) -> Iterator[None]:
    """End a run after so much processor time."""
    ended = threading.Event()

    def watch() -> None:
        until = time.process_time() + (seconds or 0.0)
        while not ended.wait(0.1):
            if time.process_time() > until:
                options.terminate = True

    watcher = threading.Thread(target=watch, daemon=True)
    if seconds is not None:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if seconds is not None:
            watcher.join()


def _expose(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make intermediate tensors graph outputs; onnxruntime infers their types."""
    present = {o.name for o in proto.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))


def _free(proto: onnx.ModelProto) -> None:
    """Inputs take any size where they declare none, or 0; without a type they are floats."""
    for value in proto.graph.input:
        if value.type.WhichOneof("value") is None:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.WhichOneof("value") == "dim_value" and dimension.dim_value <= 0:
                dimension.ClearField("dim_value")
