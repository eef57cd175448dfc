"""Data sets by the name that `--data` takes, and what one of the user's gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# A function of the settings that returns a DataSet, or where it stands: readers import libraries
# that the others do without.
# "given" is what a program gives to `train`.
DATA_SETS: dict[str, str | Callable[[Any], Any]] = {
    "digits": "amd_fused.distill.data.digits:load_digits",
    "mnist": "amd_fused.distill.data.mnist:load_mnist",
    "fashion-mnist": "amd_fused.distill.data.mnist:load_mnist",
    "cifar10": "amd_fused.distill.data.cifar:load_cifar",
    "cifar100": "amd_fused.distill.data.cifar:load_cifar",
    "cinic10": "amd_fused.distill.data.folders:load_cinic10",
    "tiny-imagenet": "amd_fused.distill.data.folders:load_tiny_imagenet",
    "imagenet": "amd_fused.distill.data.folders:load_imagenet",
    "folder": "amd_fused.distill.data.folders:load_folder",
    "given": "amd_fused.distill.data.own:load_nothing",
}


@dataclass(frozen=True)
class ImageData:
    """What a data set of the user's gives: square images of one size, of classes 0 to K - 1.

    Args:
        train, test: each either a pair of images `[N, C, H, W]` and labels `[N]`, NumPy's or
            torch's, or a torch Dataset of pairs of an image `[C, H, W]`, a tensor, and a label.
            Images are uint8, or floating with values between 0 and 1. A Dataset must give the same
            image for an index each time (`--augment crop-flip` changes training images), and its
            labels are those of its attribute `targets`, if it has that, or else read once.
        num_classes: K.
        class_names: K of them; default: the numbers.
        mean, std: of each channel, for pixels between 0 and 1, by which images are normalised.
            Default: those of the training images where these are arrays, and 0 and 1, which leave
            pixels as they are, where they are a Dataset.
    """

    train: Any
    test: Any
    num_classes: int
    class_names: Sequence[str] = ()
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
