"""Two processes that train together over gloo; run by test_engine_processes.py.

They are forked: what they import is imported once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from killing import end, start
from torch import Tensor, nn

from amd_fused.distill import engine
from amd_fused.distill.engine import launch
from amd_fused.distill.engine.batchnorm import share_statistics
from amd_fused.distill.errors import TrainingError, UsageError
from distill.tiny_runs import import_all, in_step, send, tiny

CHANNELS = 3
# Three steps an epoch.
SIZE = 30
SHORT: dict[str, Any] = {"epochs": 1, "milestones": ()}
LAYERS: dict[str, Any] = {**SHORT, "method": "vid+crd", "crd_negatives": 20}


def rank() -> int:
    return int(os.environ["RANK"])


def images() -> Tensor:
    """Both processes' batches [8, 3, 4, 5], far from zero so that sums of squares would cancel."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, CHANNELS, 4, 5, generator=generator) + 100


def normalisation() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(CHANNELS, momentum=0.3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    return layer


def normalised(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What a layer makes of a batch, and the gradients of a sum that weighs each value its own."""
    x = x.clone().requires_grad_()
    output = network(x)
    weights = torch.sin(torch.arange(8 * x[0].numel()).float()).view(8, *x.shape[1:])
    mine = weights if len(x) == 8 else weights[4 * rank() : 4 * rank() + 4]
    F.softplus(output * mine).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "x": x.grad, **gradients, **dict(network.named_buffers())}


def shared_normalisation(folder: Path) -> dict[str, Tensor]:
    network = share_statistics(nn.Sequential(normalisation()), torch.device("cpu"))
    return normalised(network, images()[4 * rank() : 4 * rank() + 4])


def distill(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    changes = options.pop("changes", {})
    return engine.distill(
        tiny(train_size=SIZE, **changes),
        folder / name,
        engine.TeacherChoice(folder / "teacher"),
        show_progress=False,
        **options,
    )


def stopped(folder: Path) -> dict[str, Any]:
    """The second process gets a signal in its second step; then both go on."""
    with in_step(2, send(signal.SIGTERM) if rank() == 1 else lambda: None) as begun:
        try:
            distill(folder, "stopped")
        except engine.Terminated:
            steps = begun[0]
    with in_step(0, lambda: None) as begun:
        distill(folder, "stopped", resume=True)
    return {"steps": steps, "resumed": begun[0]}


def refused(folder: Path, **options: Any) -> str:
    try:
        distill(folder, **options)
    except (UsageError, TrainingError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def broken_in_one(folder: Path) -> str:
    """A NaN among the first process's weights alone."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        return output * float("nan") if rank() == 0 and isinstance(module, nn.Linear) else output

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        return refused(folder, name="broken", changes={"method": "kd"})
    finally:
        handle.remove()


CASES: dict[str, Callable[[Path], Any]] = {
    "normalisation": shared_normalisation,
    "run": lambda folder: distill(folder, "two"),
    "layers": lambda folder: distill(folder, "two-layers", changes=LAYERS),
    "apart": lambda folder: distill(folder, "apart", changes={**SHORT, "sync_batchnorm": False}),
    "evaluate": lambda folder: engine.evaluate(folder / "teacher"),
    "cached": lambda folder: distill(
        folder, "cached", changes={"teacher_cache": str(folder / "cache")}
    ),
    "memory": lambda folder: refused(folder, name="memory", changes={"teacher_cache": "memory"}),
    "stopped": stopped,
    "again": lambda folder: refused(folder, name="two"),
    "odd": lambda folder: refused(folder, name="odd", changes={"batch_size": 15}),
    "broken": broken_in_one,
}


def train(folder: Path) -> None:
    """One of the two."""
    os.dup2(os.open(folder / f"{rank()}.stderr", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    try:
        launch.start(tiny())
        torch.save({name: case(folder) for name, case in CASES.items()}, folder / f"{rank()}.pt")
    except BaseException:
        traceback.print_exc()
        raise


def main(folder: Path, port: str) -> None:
    """Writes FOLDER/RANK.pt, what each case gave, and FOLDER/RANK.stderr; FOLDER/teacher must hold
    a run. The two join the store at the port."""
    import_all()
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    children = []
    for number in ("0", "1"):
        os.environ |= {"RANK": number, "LOCAL_RANK": number}
        children.append(start(lambda: train(folder)))
    sys.exit(any(end(*children)))
