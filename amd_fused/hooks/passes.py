"""Forward passes that compute no features: somebody looks at the model, or only at shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import is_fake
from torch.fx import _symbolic_trace
from torch.jit import _trace


def is_trace() -> bool:
    """Whether the model's operations are being recorded: torch.export, torch.jit.trace with the
    passes that check it, torch.fx, make_fx. torch.compile is no such thing: it runs what it saw."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return (
        torch.compiler.is_exporting()
        or _trace._trace_module_map is not None
        or torch._C._get_tracing_state() is not None
        or _symbolic_trace.is_fx_symbolic_tracing()
    )


def has_no_values(model: nn.Module, given: Iterable[Any]) -> bool:
    """Whether a pass is of shapes alone: under FakeTensorMode or with tensors on the meta device,
    among the given ones or in place of the model's parameters."""
    if torch.compiler.is_compiling():
        return False
    tensors = [a for a in (next(model.parameters(), None), *given) if isinstance(a, Tensor)]
    return fakes() or any(a.is_meta or is_fake(a) for a in tensors)


def fakes() -> bool:
    """Whether FakeTensorMode is on."""
    return not torch.compiler.is_compiling() and active_fake_mode() is not None


def is_of_ended_transform(a: Tensor) -> bool:
    """Whether a tensor was made inside a transform of torch.func that is over."""
    if torch.compiler.is_compiling():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(a)
    return wrapped and not torch._C._are_functorch_transforms_active()
