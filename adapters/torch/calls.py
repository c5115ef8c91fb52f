"""Tensors of a forward pass, named by the calls that made them.

A call is known by its operator, by the tensors that it reads, and by how many calls before it had
both in common; what it returns is named after it.  So a name says from which weights and inputs,
by which operators, a tensor came, whatever else the pass does beside: numbering all calls would
not, since PyTorch makes more or fewer of them in passes that are alike.  A result that somebody
holds is detached once more; one sample needs no copy to be contiguous where two do, and its
linear layer is one call where theirs is a product and a sum.  Therefore

- copies and views in row-major order have the name of what they show: tensors of one name hold
  the same elements in the same order, and those of one shape are equal;
- what is written in place is named as if it were new;
- a product plus a bias is named as the sum of a product and a bias;
- what depends neither on weights nor on inputs has no name.

Nothing is kept alive, so that a pass needs no more memory than it does alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils.weak import WeakTensorKeyDictionary

from .model_state import Guarded, ModelState
from .tensors import storage_of

COPIES = frozenset(("detach", "alias", "clone", "lift", "lift_fresh", "lift_fresh_copy"))
VIEWS = frozenset(("view", "_unsafe_view", "_reshape_alias"))
# Operators whose result does not depend on the values of their tensor arguments.
FACTORIES = frozenset(
    ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
     "randint_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided")
)  # fmt: skip

Call = tuple[str, tuple[str, ...], int]  # operator, names of what it reads, number of these

UNKNOWN = "?"


class Calls(Guarded):
    """Knows the tensors of a pass by name.

    Parameters
    ----------
    state : ModelState
    named : mapping of str to Tensor
        Weights, held by the caller for as long as the pass lasts.
    """

    supports_higher_order_operators = True

    def __init__(self, state: ModelState, named: Mapping[str, torch.Tensor]) -> None:
        super().__init__(state)
        self._weights = {id(tensor): name for name, tensor in reversed(list(named.items()))}
        self._made = WeakTensorKeyDictionary()
        self._count: Counter[tuple[str, tuple[str, ...]]] = Counter()
        # Tensors without a name that something with a name was written into a part of.
        self._filled: dict[int, tuple[str, torch.Tensor]] = {}
        self._raised: BaseException | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        try:
            with torch._C.DisableTorchFunction():  # what is read here is not read by the model
                return self._dispatch(func, args, kwargs or {})
        except BaseException as error:
            self._raised = error
            raise

    def __exit__(self, kind, error, traceback):
        super().__exit__(kind, error, traceback)
        # Whatever is raised within a function of TorchScript leaves it as a RuntimeError.
        hidden = type(error) is RuntimeError and "TorchScript interpreter" in str(error)
        if hidden and self._raised is not None:
            raise self._raised

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(func, HigherOrderOperator):
            raise ValueError(
                f"expected operators of tensors, got {func.name()!r}, whose branches cannot be "
                "seen: call the branch that is meant as a function"
            )
        written = self.keep_written(func, args, kwargs)
        read = tensors_read(args, kwargs)
        operator = operator_name(func)
        copies = _copies(operator, args, kwargs)
        shows = copies or operator in VIEWS
        call = None if operator in FACTORIES or shows else self._call(operator, read)
        blank = [t for t in written if call is not None and not self.known_as(t)]
        result = self.run(func, operator, args, kwargs)
        outputs = tensors_read((result,), {})
        outputs += [t for t in written if all(t is not output for output in outputs)]
        if shows and (name := self.known_as(read[0])):
            self.name(outputs[0], name)
        if copies:
            self.copied(read[0], outputs[0])
        else:
            self.returned(func, operator, outputs, call)
        for tensor in blank:
            self._filled[storage_of(tensor)] = (self.known_as(tensor), tensor)
        return result

    def run(self, func: Any, operator: str, args: Any, kwargs: Any) -> Any:
        """What the call returns."""
        return func(*args, **kwargs)

    def copied(self, source: torch.Tensor, copy: torch.Tensor) -> None:
        """Called with a copy, which has the name of its source."""

    def returned(
        self, func: Any, operator: str, outputs: list[torch.Tensor], call: Call | None
    ) -> None:
        """Called with all that any other call returned or wrote.

        ``call`` is None where that has no name, or has one already as a view.
        """
        raise NotImplementedError

    def name_of_call(self, call: Call) -> str:
        """The name of what a call would return that is part of another one."""
        raise NotImplementedError

    def name(self, tensor: torch.Tensor, name: str) -> None:
        """Give a tensor a name."""
        self._weights.pop(id(tensor), None)
        self._made[tensor] = name

    def known_as(self, tensor: torch.Tensor) -> str:
        """The name of a tensor; the empty string where it depends on no weight and no input."""
        name = self._weights.get(id(tensor)) or self._made.get(tensor, "")
        if not name and self._filled:
            name = self._filled.get(storage_of(tensor), ("",))[0]
        return name

    def _call(self, operator: str, read: Sequence[torch.Tensor]) -> Call | None:
        names = tuple(map(self.known_as, read))
        if not any(names):
            return None
        if operator == "addmm":
            bias, *factors = names
            operator, names = "add", (self.name_of_call(self._numbered("mm", (*factors,))), bias)
        return self._numbered(operator.rstrip("_"), names)

    def _numbered(self, operator: str, names: tuple[str, ...]) -> Call:
        number = self._count[operator, names]
        self._count[operator, names] += 1
        return operator, names, number


def _copies(operator: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call returns the elements of its first argument in the same shape."""
    if operator == "_to_copy":
        return kwargs.get("dtype") in (None, args[0].dtype)
    if operator in ("as_strided", "as_strided_"):  # axes of size one may have any stride
        x, shape, strides, *offset = args
        after = [(n, s) for n, s in zip(shape, strides, strict=True) if n > 1]
        before = [(n, s) for n, s in zip(x.shape, x.stride(), strict=True) if n > 1]
        return x.shape == tuple(shape) and before == after and not any(offset)
    return operator in COPIES


def operator_name(func: Any) -> str:
    """The name of a PyTorch operator; others carry their namespace, and are none of PyTorch's."""
    name, _, _ = str(func.name()).partition(".")
    return name.removeprefix("aten::")


def tensors_read(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Tensors among the arguments of an operator, in order."""
    found: list[torch.Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_read(value, {})
    return found
