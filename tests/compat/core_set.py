"""What has to work with every version: each check is a process of its own in the environment.

    python core_set.py CHECK [a fused backend that must be usable ...]

prints what the check found as one line of JSON. A check that fails raises. Needs numpy and mpmath
besides what it checks.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parents[1] / "support"
PACKAGES = ("torch", "triton", "numpy", "setuptools")


def importing(*_: str) -> dict[str, Any]:
    """The package imports. Which versions these are, and which build of the C++ kernels it has."""
    import amd_fused

    library = Path(amd_fused.__file__).parent / "_cpp.so"
    return {
        "versions": {"python": platform.python_version()} | {n: _version(n) for n in PACKAGES},
        "package": str(library.parent),
        "cpp": hashlib.sha256(library.read_bytes()).hexdigest(),
    }


def backends(*needed: str) -> dict[str, str]:
    """Those backends are usable, and "auto" takes C++ without a word."""
    import torch

    import amd_fused

    states = amd_fused.backends()
    for name in (*needed, "reference"):
        assert states[name] == "usable", f"backend {name} is {states[name]}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        amd_fused.amd_loss(torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4))
    return states


def losses(*needed: str) -> dict[str, float]:
    """Every loss is its formula, value and gradient. The largest error of each backend."""
    import parity

    return parity.check(needed)


def hooks(*_: str) -> list[str]:
    """FeatureHooks keeps what the layers return, and gradients flow through it."""
    import hooked_net
    import torch

    import amd_fused

    model, paths = hooked_net.net(), ["stem.norm", "stem", "block"]
    kept = amd_fused.FeatureHooks(model, paths)
    model(hooked_net.images())
    expected = hooked_net.outputs(model, hooked_net.images())
    for path, feature in zip(paths, kept.features, strict=True):
        torch.testing.assert_close(feature, expected[path])
    teacher = [torch.rand_like(feature) for feature in kept.features]
    amd_fused.amd_loss(kept.features, teacher).backward()
    assert model.stem.conv.weight.grad.any()
    return paths


def compiling(*_: str) -> str:
    """torch.compile takes amd_loss whole, and its value and gradient stay."""
    import cases
    import torch

    import amd_fused

    student, teacher = cases.features(cases.SHAPES["7x7"])
    student.requires_grad_()
    results = []
    for run in (amd_fused.amd_loss, torch.compile(amd_fused.amd_loss, fullgraph=True)):
        loss = run(student, teacher)
        results.append((loss, *torch.autograd.grad(loss, student)))
    torch.testing.assert_close(results[1], results[0])
    return "amd_loss"


def training(*_: str) -> dict[str, float]:
    """A teacher and a student of the trainer's demo, an epoch each, as a user starts them. Their
    accuracies in percent."""
    program = str(Path(sys.executable).with_name("amd-fused"))
    common = ["--recipe", "demo", "--epochs", "1", "--quiet", "--output-dir"]
    subprocess.run([program, "train-teacher", *common, "teacher"], check=True)
    student = ["--teacher-run", "teacher", "--method", "amd-gl"]
    subprocess.run([program, "distill", *student, *common, "student"], check=True)
    reached = {}
    for folder in ("teacher", "student"):
        result = json.loads(Path(folder, "result.json").read_text())
        reached[folder] = result["test"]["top1"]
    assert reached["teacher"] > 20, f"a teacher reached {reached['teacher']} %, chance is 10 %"
    return reached


CHECKS: dict[str, Callable[..., Any]] = {
    "import": importing,
    "backends": backends,
    "losses": losses,
    "hooks": hooks,
    "torch.compile": compiling,
    "demo": training,
}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.path.append(str(SUPPORT))
    # Before anything imports Triton: without a GPU its kernels run in the interpreter.
    os.environ["TRITON_INTERPRET"] = "1"
    check, *needed = sys.argv[1:]
    found = CHECKS[check](*needed)
    print(json.dumps(found))
