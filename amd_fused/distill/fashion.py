"""Fashion-MNIST's settings."""

from __future__ import annotations

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
}
TEACHER_SETTINGS = {"train_size": 8000, "epochs": 3}
# Of 2,000 images 1,800 are of other classes.
OF_TRIALS = {"crd": {"crd_negatives": 1024}}
