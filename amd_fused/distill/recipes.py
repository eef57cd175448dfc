"""Recipes: the paper's experiments with its numbers (section 5.1.2), and others on images that are
at hand.

A recipe names settings; the command line may change any of them. What the paper reports for a
recipe stands beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from amd_fused.distill import digits, fashion, paper
from amd_fused.distill.errors import UsageError
from amd_fused.distill.paper import Setup
from amd_fused.distill.recipe import UNEQUAL, Recipe, every
from amd_fused.distill.setting import value_text
from amd_fused.distill.trials import tuned, usual

# The grids of Figs. 5, 7 and 8, as far as the text of sections 5.2 and 5.4 names their points.
_GRIDS: dict[str, tuple[float | str, ...]] = {
    "components": ("a", "p", "n", "apn"),
    "gamma": (1000.0, 3000.0, 5000.0, 7000.0),
    "margin": (1.0, 1.1, 1.35, 1.5, 2.0),
}


def get(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3) or ["digits"]
        raise UsageError(
            f"--recipe must be one of those that `amd-fused recipes` lists, got {name!r}; "
            f"perhaps {' or '.join(near)}"
        )
    return RECIPES[name]


# Section 5.1.2. Weights of the terms by data set: (lambda_1, lambda_2, tau).
_CIFAR10 = {"data": "cifar10", "ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0}
_CINIC10 = {"data": "cinic10", "ce_weight": 0.4, "kd_weight": 0.6, "temperature": 16.0}
_TINY = {
    "data": "tiny-imagenet",
    "ce_weight": 0.7,
    "kd_weight": 0.3,
    "temperature": 16.0,
    "augment": "crop-flip",
}
_IMAGENET = {
    "data": "imagenet",
    "ce_weight": 1.0,
    "kd_weight": 1.0,
    "temperature": 4.0,
    "augment": "imagenet",
    "batch_size": 256,
    "epochs": 100,
    "milestones": (30, 60, 90),
    "lr_decay": 0.1,
    "workers": 8,
}
# "We adopt early-stopped KD": the paper does not say after which epoch, so every 20th is kept.
_EARLY_STOPPED = {"save_every": 20}


def _setup(name: str, title: str, common: dict[str, Any], setup: Setup) -> Recipe:
    networks = {"teacher": setup.teacher, "student": setup.student}
    amd = max(setup.methods["amd-g"][0], setup.methods["amd-gl"][0])
    kd = setup.methods["kd"][0]
    return Recipe(
        name,
        title,
        common | networks,
        _EARLY_STOPPED,
        ("scratch", *setup.methods),
        reported=setup,
        expected=(f"top-1: student {setup.student_top1:.2f}, KD {kd:.2f}, AMD {amd:.2f}",),
    )


def _by_value(name: str, setup: Setup, margins: Mapping[float, float]) -> tuple[str]:
    """What the text of 5.4 says of a grid."""
    default: Any = {"components": "apn", "gamma": 5000.0, "margin": 1.35}[name]
    found: dict[Any, float] = {default: setup.methods["amd-g"][0]}
    found |= margins if name == "margin" else {}
    of_each = (f"{found[x]:.2f} ({value_text(x)})" for x in sorted(found, key=str))
    return ("top-1: AMD (g) " + ", ".join(of_each),)


def _calibration(reported: paper.Calibration) -> tuple[str, ...]:
    return tuple(f"ECE {ece:.3f}, NLL {nll:.2f}: {key}" for key, (ece, nll) in reported.items())


def _variants() -> list[Recipe]:
    """Sections 5.4 and 5.6: grids, masks, Mixup, and SP beside AMD."""
    made = []
    for data, setups, common in (
        ("cifar10", paper.CIFAR10, _CIFAR10),
        ("cinic10", paper.CINIC10, _CINIC10),
    ):
        for setup in ("a", "b"):
            base = _setup(f"{data}-{setup}", "", common, setups[setup])
            for name, values in _GRIDS.items():
                if (data, name) == ("cinic10", "components"):
                    continue
                figure = {"components": 5, "gamma": 7, "margin": 8}[name]
                title = f"accuracy by {name} (Fig. {figure}), AMD (g)"
                made.append(
                    replace(
                        base,
                        name=f"{base.name}-{name}",
                        title=title,
                        methods=("kd", "amd-g"),
                        grid={name: values},
                        expected=_by_value(name, setups[setup], paper.MARGINS[data, setup]),
                    )
                )
    for data, setups, common in (
        ("cifar10", paper.CIFAR10, _CIFAR10),
        ("cinic10", paper.CINIC10, _CINIC10),
        ("tiny-imagenet", paper.TINY_IMAGENET, _TINY),
    ):
        for setup in ("a", "b", "bb", "c", "ca", "cb", "d"):
            if setup in setups:
                small = data == "tiny-imagenet" or (data, setup) in (
                    ("cifar10", "b"),
                    ("cinic10", "ca"),
                )
                gamma = {"gamma": 3000.0} if small else {}
                title = "masked features (5.6.1, Fig. 12)"
                recipe = _setup(f"{data}-{setup}-masked", title, common | gamma, setups[setup])
                masked = ("amd-masked-g", "amd-masked-gl")
                # Fig. 12 gives no numbers.
                made.append(replace(recipe, methods=masked, expected=()))
    for setup in ("a", "b"):
        base = _setup(f"cifar10-{setup}", "", _CIFAR10, paper.CIFAR10[setup])
        made.append(
            replace(
                base,
                name=f"{base.name}-mixup",
                title="students with Mixup (5.6.2, Table 8)",
                settings={**base.settings, "mixup": 0.2},
                methods=tuple(paper.MIXUP[setup]),
                expected=_calibration(paper.MIXUP[setup]),
            )
        )
        made.append(
            replace(
                base,
                name=f"{base.name}-sp",
                title="with SP beside (5.6.3, Table 9)",
                methods=tuple(paper.WITH_SP[setup]),
                expected=_calibration(paper.WITH_SP[setup]),
            )
        )
    return made


def _imagenet() -> list[Recipe]:
    """Table 6: "standard KD is not applied to baselines and Full KD is utilized", so no teacher is
    stopped early, and KD stands beside AMD, and CRD in a recipe of its own, alone."""
    baselines = ("at", "rkd", "sp", "cc", "afd", "crd")
    alone = replace(
        _setup("imagenet", "ImageNet, Table 6; baselines without KD", _IMAGENET, paper.IMAGENET),
        seeds=1,
        teacher_settings={},
        method_settings={method: {"kd_weight": 0.0} for method in baselines},
    )
    with_kd = replace(
        alone,
        name="imagenet-crd-kd",
        title="ImageNet, CRD with KD (Table 6)",
        methods=("crd",),
        method_settings={},
        reported=paper.IMAGENET_CRD_KD,
        expected=("top-1: CRD + KD 71.38",),
    )
    return [alone, with_kd]


def _all() -> list[Recipe]:
    made = list(digits.RECIPES)
    for data, title, setups, common in (
        ("cifar10", "CIFAR-10", paper.CIFAR10, _CIFAR10),
        ("cinic10", "CINIC-10", paper.CINIC10, _CINIC10),
        ("tiny-imagenet", "Tiny-ImageNet", paper.TINY_IMAGENET, _TINY),
    ):
        made += [
            replace(
                _setup(f"{data}-{key}", f"{title}, {setup.source}", common, setup),
                left_out=dict.fromkeys(setup.dashes, UNEQUAL),
            )
            for key, setup in setups.items()
        ]
    return [*made, *_imagenet(), *_variants(), *_fashion()]


def _fashion() -> list[Recipe]:
    """Fashion-MNIST: the short form, its grids, and setups (a) to (d) as on CIFAR-10."""
    left_out = {"afds": UNEQUAL}
    methods = every(left_out)
    short = Recipe(
        "fashion",
        "all methods on 2,000 images of Fashion-MNIST, five seeds",
        fashion.SETTINGS,
        fashion.TEACHER_SETTINGS,
        methods,
        left_out=left_out,
        method_settings=tuned("fashion"),
        trials=usual(methods, fashion.SETTINGS, fashion.OF_TRIALS),
        validation_size=2000,
    )
    grids = [
        replace(
            short,
            name=f"fashion-{name}",
            title=f"accuracy by {name} on Fashion-MNIST, AMD (g)",
            methods=("kd", "amd-g"),
            grid={name: values},
            left_out={},
            trials=(),
        )
        for name, values in _GRIDS.items()
    ]
    whole = []
    for key in "abcd":
        setup = paper.CIFAR10[key]
        left_out = dict.fromkeys(setup.dashes, UNEQUAL)
        methods = every(left_out)
        whole.append(
            replace(
                short,
                name=f"fashion-{key}",
                title=f"Fashion-MNIST, all methods, networks and settings of {setup.source}",
                settings={
                    **_CIFAR10,
                    "data": "fashion-mnist",
                    "teacher": setup.teacher,
                    "student": setup.student,
                },
                teacher_settings={},
                methods=methods,
                left_out=left_out,
                method_settings=tuned(f"fashion-{key}"),
                trials=usual(methods, _CIFAR10),
                validation_size=5000,
            )
        )
    return [short, *grids, *whole]


RECIPES = {recipe.name: recipe for recipe in _all()}
