"""A network of numpy arrays, as the procedures of :mod:`rejuvenet.graph` know one."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
from rejuvenet.graph.arrays import NumpyArrays
from rejuvenet.graph.find.nodes import Elementwise, Graph, PerChannel, Window
from rejuvenet.graph.find.solve import find_groups

EPSILON = 1e-5
WINDOWS = (Window(1, 1, 0, 0),) * 2
STATISTICS = ("scale", "shift", "running_mean", "running_var")


class NumpyNetwork:
    """1 x 1 convolutions, each but the last with a batch normalization and a rectifier.

    Parameters
    ----------
    widths : sequence of int
        Channels of the input and of every layer.
    normalized : bool
        Without, a bias takes the place of the normalization.
    """

    def __init__(self, widths=(3, 8, 12, 4), normalized=True, extent=3, seed=0):
        rng = np.random.default_rng(seed)
        self.arrays, self.weights, self.runs = NumpyArrays(), {}, 0
        self.graph = Graph(inputs=["x"])
        self.example_samples = 2
        self.layers = []
        shape = (2, widths[0], extent, extent)
        name = self.graph.add_tensor("x", shape)
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            shape = (2, n_out, extent, extent)
            weight = self._weight(f"{i}.weight", rng.normal(size=(n_out, n_in, 1, 1)) * n_in**-0.5)
            made = self.graph.add_tensor(f"made{i}", shape)
            self.graph.add_convolution(name, weight, made, windows=WINDOWS)
            if i == len(widths) - 2:
                self.layers.append((i, name, made, None, ()))
                self.graph.outputs.append(made)
                break
            roles = STATISTICS if normalized else ("bias",)
            values = [rng.uniform(0.5, 1.5, n_out), *rng.normal(size=(2, n_out)) * 0.3,
                      rng.uniform(0.5, 1.5, n_out)]  # fmt: skip
            names = [self._weight(f"{i}.{r}", v) for r, v in zip(roles, values, strict=False)]
            self.graph.buffers.update(n for n in names if "running" in n)
            changed, out = (self.graph.add_tensor(f"{k}{i}", shape) for k in ("changed", "out"))
            self.graph.nodes.append(PerChannel((made, *names), changed, 1, roles))
            self.graph.nodes.append(Elementwise((changed,), out))
            self.layers.append((i, name, made, out, roles))
            name = out
        self._original = self.weights

    def _weight(self, name, values):
        self.weights[name] = values
        self.graph.weights[self.graph.add_tensor(name, values.shape)] = name
        return name

    @property
    def groups(self):
        return find_groups(self.graph)

    def samples(self, inputs):
        return len(inputs)

    def run(self, inputs, watch, outputs=False, statistics=()):
        for name, values in self._made(inputs, statistics):
            for callback in watch.get(name, ()):
                callback(values)
        return [values] if outputs else []

    def stepwise(self, inputs, tensors, statistics=()):
        values, made = {}, self._made(inputs, statistics)
        for tensor in tensors:
            while tensor not in values:
                name, values[name] = next(made)
            yield values[tensor], sum(array.nbytes for array in values.values())

    def _made(self, inputs, statistics):
        """Tensors by name, each made with the weights of its time."""
        self.runs += len(inputs)
        adapted = {entry.tensor: entry for entry in statistics}
        x = inputs
        yield "x", x
        for i, _, made, out, roles in self.layers:
            z = np.einsum("oc,nchw->nohw", self.weights[f"{i}.weight"][..., 0, 0], x)
            yield made, z
            if out is None:
                continue
            parameters = [self.weights[f"{i}.{role}"] for role in roles]
            if len(parameters) == 4:
                scale, shift, mean, variance = parameters
                if made in adapted:
                    entry = adapted[made]
                    mean = z.mean((0, 2, 3)) + entry.offset
                    variance = z.var((0, 2, 3)) * entry.factor + entry.constant
                factor = scale / np.sqrt(variance + EPSILON)
                z = z * factor[:, None, None] + (shift - mean * factor)[:, None, None]
            else:
                z = z + parameters[0][:, None, None]
            yield f"changed{i}", z
            x = np.maximum(z, 0.0)
            yield out, x

    @contextlib.contextmanager
    def transaction(self):
        self._original = dict(self.weights)
        try:
            yield self
        except BaseException:
            self.weights = self._original
            raise

    def original(self, names):
        return {name: self._original[name].copy() for name in names}

    def read(self, names):
        return {name: self.weights[name].copy() for name in names}

    def write(self, values):
        self.weights = {**self.weights, **values}

    @contextlib.contextmanager
    def undone(self):
        present, self.weights = self.weights, self._original
        yield
        self.weights = present

    def check(self, group):
        pass

    def gradients(self, data, names):
        raise ValueError("no gradients")


class Lists:
    """Batches in memory."""

    def __init__(self, batches):
        self.batches = batches

    def read(self, purpose):
        yield from self.batches

    def labelled(self, labels):
        return Lists([(x, y) for (x, _), y in zip(self.batches, labels, strict=True)])
