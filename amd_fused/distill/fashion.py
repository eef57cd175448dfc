"""Fashion-MNIST's settings, and what `amd-fused tune` tries for each method on it."""

from __future__ import annotations

from amd_fused.distill.trials import Trials, around

# Setup (a) on real images for two CPU cores, in 25 minutes: the paper's networks and map sizes,
# with few images and steps. What no trials choose is the paper's for CIFAR-10, but for batches of
# 32, for more steps, and a cosine, as for digits. Accuracy is that of half of the test images, in
# which testing takes as long as training. In bfloat16 and channels_last a step takes half as long
# on processors with instructions for the former.
SETTINGS = {
    "data": "fashion-mnist",
    "train_size": 2000,
    "test_size": 5000,
    "teacher": "wrn16-3",
    "student": "wrn16-1",
    "epochs": 6,
    "batch_size": 32,
    "lr": 0.05,
    "schedule": "cosine",
    "milestones": (),
    "mixed_precision": "bf16",
    "channels_last": True,
    # Of 2,000 images 1,800 are of other classes.
    "crd_negatives": 1024,
}
TEACHER_SETTINGS = {"train_size": 8000, "epochs": 3}

_LOGITS = tuple(
    {"ce_weight": ce, "kd_weight": kd, "temperature": tau}
    # The paper's for CIFAR-10, CINIC-10 and Tiny-ImageNet.
    for ce, kd, tau in ((0.1, 0.9, 4.0), (0.4, 0.6, 16.0), (0.7, 0.3, 16.0))
)
# Students' learning rate first, on students from scratch, for all; then KD's weights and
# temperature, for all with a loss of features; then each loss's weight.
TRIALS = (
    Trials("scratch", tuple({"lr": lr} for lr in (0.02, 0.05, 0.1))),
    Trials("kd", _LOGITS, "scratch"),
    Trials("skd", _LOGITS, "scratch"),
    around("nd", "nd_weight", 1.0),
    around("lsh", "lsh_weight", 1.0),
    around("at", "at_weight", 1000.0),
    around("sp", "sp_weight", 3000.0),
    around("rkd", "rkd_weight", 1.0),
    around("cc", "cc_weight", 0.02),
    around("crd", "crd_weight", 0.8),
    around("vid", "vid_weight", 1.0),
    around("afd", "afd_weight", 200.0),
    around("afds", "afds_weight", 500.0),
    *(
        around(method, "gamma", 5000.0)
        for method in ("amd-g", "amd-gl", "amd-masked-g", "amd-masked-gl")
    ),
    # Its gamma is that of amd-gl, which leaves SP's weight to be chosen.
    Trials("amd-gl+sp", around("sp", "sp_weight", 3000.0).tried, "amd-gl"),
)
