"""Recipes on scikit-learn's handwritten digits."""

from __future__ import annotations

from amd_fused.distill.recipe import UNEQUAL, Recipe, every
from amd_fused.distill.trials import tuned, usual

# Where digits are unlike CIFAR, the paper's values are carried over. The AMD, AT and AFD losses are
# means over positions, and their weights belong to 32x32 images; in 8x8 images the map of every
# group has 1/16 of the positions, so a 16th keeps the weight of the sum (Eq. 7 of AMD). CRD draws a
# third as many negatives as there are images, as on CIFAR-10. The learning rate of 0.1 belongs to
# batches of 128, so it is about half for 50. The paper's steps after every 40 of 200 epochs would
# leave a short run too few updates at each rate; a cosine has no milestones to place, and its end
# is quiet enough to report the last epoch. The teacher has all 898 training images, its students
# 300 of them, without which there would be nothing to distil.
_SETTINGS = {
    "data": "digits",
    "train_size": 300,
    "teacher": "wrn16-2",
    "student": "wrn16-1",
    "epochs": 30,
    "batch_size": 50,
    "lr": 0.05,
    "schedule": "cosine",
    "milestones": (),
    "gamma": 5000.0 / 16,
    "at_weight": 1000.0 / 16,
    "afd_weight": 200.0 / 16,
    "crd_negatives": 100,
    "lsh_hashes": 512,
}
_TEACHER_SETTINGS = {"train_size": 0, "epochs": 10}
_LEFT_OUT = {"afds": UNEQUAL}
_METHODS = every(_LEFT_OUT)
RECIPES = (
    Recipe(
        "demo",
        "digits in a minute: three seeds, from scratch, KD, AMD (g) and AMD (g+l)",
        _SETTINGS,
        _TEACHER_SETTINGS,
        ("scratch", "kd", "amd-g", "amd-gl"),
        seeds=3,
    ),
    Recipe(
        "digits",
        "all methods on scikit-learn's handwritten digits, five seeds",
        _SETTINGS,
        _TEACHER_SETTINGS,
        _METHODS,
        left_out=_LEFT_OUT,
        method_settings=tuned("digits"),
        trials=usual(_METHODS, _SETTINGS),
        # Leaves the teacher of the trials 598 images.
        validation_size=300,
    ),
)
