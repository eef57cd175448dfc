"""The ND loss as a function, and the class means that it needs of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import BACKENDS, KERNELS
from amd_fused.losses._common import dtypes, embedding_checks, processes, teacher_pass, value_checks
from amd_fused.losses.nd import checks, class_sums, operator, reference


def nd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    class_means: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """ND loss: large norm, and the direction of the teacher's class mean, in one term (KD++).

    As::

        e = F.normalize(class_means[target])
        longer = torch.maximum(student.norm(dim=1), teacher.norm(dim=1))
        loss = (1 - (student * e).sum(1) / longer).mean()

    in one pass over the embeddings forward and one backward.

    Args:
        student: embeddings [B, D], of the penultimate layer as a rule. float32, float16, bfloat16
            or float64; any strides. A student of another width needs a projection to D first.
        teacher: embeddings [B, D] of the same samples; the dtype may differ.
        target: class indices [B] of an integer dtype.
        class_means: [K, D], the teacher's mean embedding of each class, as
            :func:`amd_fused.class_means` computes it; normalised here. Any floating dtype (it does
            not decide the result's). A constant: it must not require a gradient.
        backend: "auto", "triton", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    A label without a class mean, outside 0 to K - 1, is an error on a CPU. On a GPU, where looking
    would stop the host, such a sample adds 0 to the sum, though it still counts in the mean, and
    its gradients are 0: mark samples to ignore with -1 there. (A graph of torch.compile behaves so
    with backend "reference" on a CPU too.)

    Where both embeddings of a sample, or its class mean, are 0, its loss is 1 and its gradients
    are 0. Where the norms are equal the student's counts as the longer.

    Returns:
        0-d float32 tensor; float64 when student or teacher is float64. Gradients flow to student
        and teacher, whichever requires one (to the teacher through its norm). NaN and Inf in an
        embedding give NaN.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Wang, Cheng, Duan et al., "Improving Knowledge Distillation via Regularizing Feature
    Norm and Direction" (KD++), arXiv:2305.17007: the ND loss. The released code computes the same
    value, sample by sample in a Python loop, keeps the class means in a dictionary of lists by
    label, multiplies by a weight (here the caller's), and gives NaN where both norms or the class
    mean are 0.
    """
    owner = "nd_loss"
    value_checks.choice(owner, "backend", backend, BACKENDS)
    embedding_checks.embedding_pair(
        owner, student, teacher, "project the student to the teacher's width first"
    )
    embedding_checks.labels(owner, "target", target, student.shape[0])
    embedding_checks.same_device(owner, "target", target, student)
    embedding_checks.matrix(owner, "class_means", class_means, "K", "D")
    embedding_checks.of_width(owner, "class_means", class_means, student)
    if value_checks.readable(target):
        checks.labels_in_range(owner, "target", target, class_means.shape[0])
    chosen = _backends.choose(owner, backend, student.device.type, KERNELS["nd"])
    if chosen == "reference":
        return reference.nd_loss(student, teacher, target, class_means)
    value_checks.no_transforms(owner, chosen, [student, teacher])
    if class_means.dtype == torch.float64:
        # Kernels that compute in float32 do not read float64.
        class_means = class_means.to(dtypes.compute_dtype([student, teacher]))
    return operator.nd_fwd(chosen, student, teacher, target.long(), class_means)


def class_means(
    model_or_features: Callable[[Any], Tensor] | Tensor,
    loader: Iterable[Any] | Tensor,
    num_classes: int,
    *,
    label_key: str | None = None,
) -> Tensor:
    """The teacher's mean embedding of each class, for :func:`nd_loss`, in one pass over the data.

    As::

        torch.stack([features[labels == k].double().mean(0) for k in range(num_classes)]).float()

    without holding the features: sums and counts in float64, [K, D] and [K].

    Args:
        model_or_features: the teacher up to its embeddings, called as ``model(inputs)``: a module
            or any function that returns [B, D] (or [B, D, 1, 1]). A module, or the module a bound
            method belongs to (``teacher.forward_features``), is run in evaluation mode, and each
            of its submodules then gets its own mode back. Or the embeddings themselves, [N, D].
        loader: batches ``(inputs, labels)``, further entries are not looked at; or dicts with
            "labels" or "label", whose other entries go to the model by name, ``model(**inputs)``.
            Tensors are moved to the module's device. What it gives is averaged: switch augmentation
            off unless the means shall be over it. With embeddings [N, D]: their labels [N], or such
            a loader in the same order, not shuffled.
        num_classes: K; labels are 0 to K - 1.
        label_key: the key of the labels in batches that are dicts, where it is another.

    Under torch.distributed, when it is initialised, every process must call it with its own shard
    of the data: sums and counts are added up over all processes, each gets the same means, and an
    error in one raises in all. (DistributedSampler repeats some samples so that shards are equally
    long, and these count twice.)

    Returns:
        [K, D] on the device of the embeddings, without gradient: float32, or float64 when the
        embeddings are float64.

    Raises:
        TypeError, ValueError: an argument breaks its rule, a label is out of range, a class has no
            sample (the message names the classes), or a mean is not finite.

    Source: as :func:`nd_loss`: "class-mean of teacher features".
    """
    owner = "class_means"
    embedding_checks.count(owner, "num_classes", num_classes)
    sums = class_sums.ClassSums(owner, num_classes)
    with processes.shared_errors(owner), teacher_pass.evaluating(model_or_features):
        for features, labels in teacher_pass.labelled(owner, model_or_features, loader, label_key):
            sums.add(features, labels)
    return sums.means()
