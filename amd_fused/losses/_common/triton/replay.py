"""A call's launches once more, on other tensors like the first ones.

``kernel[grid](...)`` works out anew which compiled kernel fits its arguments, and a launcher which
blocks fit its tensors: most of what a call costs the host. Both depend on shapes, strides, dtypes,
alignment and options alone, so that a call with all of these as before only has to put its tensors
where the others were.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amd_fused.losses._common.triton.launch import Launch

# Calls that are remembered; a schedule of weights makes a new one of every step.
_MOST = 256


class _Slot(NamedTuple):
    """Where a tensor belongs: its number among those of the call, then those made for it."""

    number: int


class _Repeated(NamedTuple):
    """A launch whose tensors are yet to be filled in: ``changing`` are places and what goes there,
    slots or tuples of them, in ``arguments``."""

    run: Callable[..., object]
    arguments: list[Any]
    changing: list[tuple[int, Any]]


def described(a: Tensor) -> Hashable:
    """All that a launch and Triton's choice of a compiled kernel take of a tensor."""
    return a.shape, a.stride(), a.dtype, a.data_ptr() % 16 == 0


def submit(run: Callable[..., object], arguments: Sequence[Any]) -> None:
    """One launch of a compiled kernel."""
    run(*arguments)


class Replays:
    """Launches by the calls that they belong to."""

    def __init__(self) -> None:
        self._recorded: dict[Hashable, tuple[list[_Repeated], list[tuple[torch.Size, Any]]]] = {}

    def run(self, call: Hashable, tensors: Sequence[Tensor | None]) -> bool:
        """Launches what was recorded of that call, on its tensors in the same order. False if
        nothing was."""
        found = self._recorded.get(call)
        if found is None:
            return False
        launches, made = found
        device = next(a.device for a in tensors if a is not None)
        all_tensors = [
            *tensors,
            *(torch.empty(size, dtype=dtype, device=device) for size, dtype in made),
        ]
        for launch in launches:
            arguments = launch.arguments.copy()
            for place, content in launch.changing:
                arguments[place] = _filled(content, all_tensors)
            submit(launch.run, arguments)
        return True

    def record(
        self,
        call: Hashable,
        launches: Sequence[Launch],
        compiled: Sequence[Any] | None,
        tensors: Sequence[Tensor | None],
    ) -> None:
        """Remembers launches that were just made.

        Args:
            call: equal for calls whose launches differ in their tensors alone.
            compiled: what each launch ran, as ``Launch.run`` returns it. Without, as in Triton's
                interpreter, nothing is remembered.
            tensors: of the call; what else the launches take was made for them.
        """
        slots = {id(a): number for number, a in enumerate(tensors) if a is not None}
        distinct = len(slots) == sum(a is not None for a in tensors)
        if not compiled or not all(compiled) or not distinct:
            return
        made: list[tuple[torch.Size, Any]] = []

        def slotted(value: Any) -> Any:
            if isinstance(value, Tensor):
                if id(value) not in slots:
                    slots[id(value)] = len(tensors) + len(made)
                    made.append((value.shape, value.dtype))
                return _Slot(slots[id(value)])
            return tuple(map(slotted, value)) if type(value) is tuple else value

        repeated = []
        for launch, kernel in zip(launches, compiled, strict=True):
            named = launch.kernel.arg_names[len(launch.args) :]
            arguments = [*launch.args, *(launch.constants[name] for name in named)]
            contents = [slotted(argument) for argument in arguments]
            changing = [(i, content) for i, content in enumerate(contents) if _has_slot(content)]
            for place, _ in changing:
                arguments[place] = None  # no tensor is kept alive
            repeated.append(_Repeated(kernel[(launch.programs, 1, 1)], arguments, changing))
        if len(self._recorded) >= _MOST:
            self._recorded.clear()
        self._recorded[call] = repeated, made


def _has_slot(content: Any) -> bool:
    if type(content) is tuple:
        return any(map(_has_slot, content))
    return type(content) is _Slot


def _filled(content: Any, tensors: Sequence[Tensor | None]) -> Any:
    if type(content) is _Slot:
        return tensors[content.number]
    if type(content) is tuple:
        return tuple([_filled(part, tensors) for part in content])
    return content
