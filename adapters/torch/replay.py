"""The operators of a forward pass, run again from where they stand.

A pass of a module cannot stand still and go on later; the list of the operators that it ran can.
A :class:`Tape` is that list, with numbers in place of the tensors that the pass made, and
:func:`replay` takes a batch of the same shapes through it.  What a model decides by the values of
tensors, or keeps from one pass to the next, would not be decided or kept again: its tape is not
repeatable.  What it makes of its weights alone (copies, other layouts) is made once more wherever
the replay goes on, as they may have been written meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ...graph.find.nodes import Freeze
from ...graph.network import NotMade
from .calls import tensors_read
from .interrupts import Interruptible
from .model_state import written_arguments
from .nested import tensors_within
from .passes import as_written, glance
from .recorder import LOOKS, READ
from .tensors import named_tensors, storage_of
from .trace import TracedModel


class _Slot(int):
    """The number of a tensor that the pass made or was given."""


class _Step(NamedTuple):
    """An operator, what it is given, and the slots of what it returns."""

    operator: Any
    args: list[Any]
    kwargs: dict[str, Any]
    made: list[int]


class Tape(TorchDispatchMode):
    """The operators that a model runs on a batch, up to some tensors.

    Parameters
    ----------
    traced : TracedModel
    inputs : object
        The batch.
    tensors : iterable of str

    Attributes
    ----------
    repeatable : bool
        Whether other batches of the same shapes may go through it.
    inputs : list of int
        The slots of the tensors of a batch.
    steps : list of _Step
    tensors : list of str
        What it was made for.
    stands : dict of str to (int, int)
        How many steps a tensor takes, and its slot; without those that the batch does not make.
    last : dict of int to int
        The last step before which a slot is needed.
    own : list of int
        Steps that take nothing of the batch.
    of_weights : set of int
        Slots of what such steps make of weights.
    """

    def __init__(self, traced: TracedModel, inputs: Any, tensors: Sequence[str]) -> None:
        super().__init__()
        self.tensors, self.steps = list(tensors), list[_Step]()
        self.stands: dict[str, tuple[int, int]] = {}
        self.last: dict[int, int] = {}
        self.own, self.of_weights = list[int](), set[int]()
        self._constant = set[int]()  # slots of what own steps make, until something else enters
        self.repeatable = not any(
            isinstance(node, Freeze) and node.reason.startswith(READ) for node in traced.graph.nodes
        )
        self._slots = WeakTensorKeyDictionary()
        self._count = 0
        self._model = {id(tensor) for tensor in named_tensors(traced.model).values()}
        self._own = {storage_of(tensor) for tensor in named_tensors(traced.model).values()}
        given = tensors_within(inputs)
        self._foreign = {storage_of(tensor): tensor for tensor in given}  # no slot, or not ours
        self.inputs = [self._slot(tensor) for tensor in given]
        if self.repeatable:
            with contextlib.suppress(NotMade), self:
                glance(traced, inputs, {name: partial(self._stand, name) for name in tensors})
        self._foreign.clear()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        read = tensors_read(args, kwargs)
        for tensor in read:
            if tensor not in self._slots:
                self._foreign[storage_of(tensor)] = tensor
                # Another view of a weight would not see what is written into that.
                hidden = storage_of(tensor) in self._own and id(tensor) not in self._model
                self.repeatable &= not hidden
        known = [self._slots[tensor] for tensor in read if tensor in self._slots]
        self.repeatable &= not known or not _looks(func, args)
        chance = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
        own = not chance and self._constant.issuperset(known)
        for place, name in written_arguments(func):
            written = tensors_read((args[place] if place < len(args) else kwargs.get(name),), {})
            self.repeatable &= self._foreign.keys().isdisjoint(map(storage_of, written))
            if not own:
                changed = self._slots_of(written)
                self._constant -= changed
                self.of_weights -= changed
        given = self._put_down(args), self._put_down(kwargs)
        result = func(*args, **kwargs)
        made = [self._slot(tensor) for tensor in tensors_read((result,), {})]
        self.last |= dict.fromkeys((*known, *made), len(self.steps))
        if own:
            self.own.append(len(self.steps))
            self._constant.update(made)
            if self.of_weights.intersection(known) or self._own & set(map(storage_of, read)):
                self.of_weights.update(made)
        self.steps.append(_Step(func, *given, made))
        return result

    def _slots_of(self, tensors: Iterable[torch.Tensor]) -> set[int]:
        """The slots of all tensors over the same memory."""
        places = set(map(storage_of, tensors))
        return {slot for tensor, slot in self._slots.items() if storage_of(tensor) in places}

    def _slot(self, tensor: torch.Tensor) -> int:
        if tensor not in self._slots:
            self._slots[tensor] = self._count
            self._count += 1
        return self._slots[tensor]

    def _stand(self, name: str, tensor: torch.Tensor) -> None:
        self.stands[name] = len(self.steps), self._slot(tensor)
        self.last[self._slot(tensor)] = len(self.steps)

    def _put_down(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _Slot(self._slots[value]) if value in self._slots else value
        if isinstance(value, (list, tuple)):
            return [self._put_down(part) for part in value]
        if isinstance(value, dict):
            return {name: self._put_down(part) for name, part in value.items()}
        return value


def _looks(func: Any, args: Sequence[Any]) -> bool:
    """Whether what an operator makes has a shape, or is a number, that values decide."""
    if func is torch.ops.aten.index.Tensor:  # whole numbers as indices decide no shape
        return any(t.dtype in (torch.bool, torch.uint8) for t in tensors_read(args[1:], {}))
    return not LOOKS.isdisjoint(getattr(func, "tags", ()))


def replay(
    tape: Tape, inputs: Any, tensors: Sequence[str], mode: contextlib.AbstractContextManager[Any]
) -> Iterator[tuple[torch.Tensor | None, int]]:
    """Some tensors of a pass, one after the other, and the bytes that are kept to go on.

    Parameters
    ----------
    tape : Tape
    inputs : object
        A batch.
    tensors : sequence of str
    mode : context manager
        Around the operators.
    """
    there = dict(zip(tape.inputs, tensors_within(inputs), strict=True))
    del inputs
    early: dict[str, torch.Tensor] = {}
    at = 0
    for i, tensor in enumerate(tensors):
        if tensor not in tape.stands:
            yield None, _bytes(there)
            continue
        end, slot = tape.stands[tensor]
        later = [name for name in tensors[i + 1 :] if name in tape.stands]
        passed = [name for name in later if at <= tape.stands[name][0] < end]
        # No context may stay open while the pass stands.
        with Interruptible(), as_written(), torch.no_grad(), mode:
            _renew(tape, at, there)
            for number in range(at, end):
                for name in passed:  # it may be written before its turn
                    if tape.stands[name][0] == number:
                        early[name] = there[tape.stands[name][1]].clone()
                _run(tape, number, there)
        value = there[slot] if end >= at else early[tensor]
        at = max(at, end)
        yield value, _bytes(there)


def _renew(tape: Tape, until: int, there: dict[int, torch.Tensor]) -> None:
    """Make once more what is still needed of what earlier steps made of weights alone."""
    needed = tape.of_weights & there.keys()
    if needed:
        again: dict[int, torch.Tensor] = {}
        for number in tape.own:
            if number < until:
                _made(tape.steps[number], again)
        there.update({slot: again[slot] for slot in needed})


def _made(step: _Step, there: dict[int, torch.Tensor]) -> None:
    result = step.operator(*_taken(step.args, there), **_taken(step.kwargs, there))
    there.update(zip(step.made, tensors_read((result,), {}), strict=True))


def _run(tape: Tape, number: int, there: dict[int, torch.Tensor]) -> None:
    """One operator of a tape; what nothing takes any more is let go."""
    _made(tape.steps[number], there)
    for slot in [slot for slot in there if tape.last.get(slot, -1) <= number]:
        del there[slot]


def _taken(value: Any, there: dict[int, torch.Tensor]) -> Any:
    """What was put down, with tensors in place of slots."""
    if isinstance(value, _Slot):
        return there[value]
    if isinstance(value, list):
        return [_taken(part, there) for part in value]
    if isinstance(value, dict):
        return {name: _taken(part, there) for name, part in value.items()}
    return value


def _bytes(there: dict[int, torch.Tensor]) -> int:
    held = {storage_of(tensor): tensor for tensor in there.values()}
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())
