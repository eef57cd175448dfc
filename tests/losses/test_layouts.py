"""amd_loss and at_loss of tokens, sequences and volumes: that of the maps they stand for."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import torch
from torch import Tensor

from amd_fused import AMDLoss, ATLoss, amd_loss, at_loss, backends, reference

USABLE = [name for name in ("cpp", "reference") if backends()[name] == "usable"]
GLOBAL = {"local_weight": 0.0}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def with_gradient(loss: Any, student: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    value = loss(student, *args, **options)
    return value.detach(), torch.autograd.grad(value, student)[0]


def tokens_as_maps(tokens: Tensor, prefix: int, height: int, width: int) -> Tensor:
    """[B, C, H, W] by copying, position by position."""
    batch, _, channels = tokens.shape
    maps = tokens.new_zeros(batch, channels, height, width)
    for row in range(height):
        for column in range(width):
            maps[:, :, row, column] = tokens[:, prefix + row * width + column]
    return maps


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize(("prefix", "grid"), [(0, (4, 6)), (1, (4, 6)), (5, (3, 2))])
def test_tokens_with_a_grid_are_the_maps_that_they_fill(backend, prefix, grid):
    count = prefix + grid[0] * grid[1]
    student, teacher = drawn(3, count, 8), drawn(3, count, 12, seed=1)
    options = {"layout": "NLC", "prefix_tokens": prefix, "grid": grid, "backend": backend}
    for loss, exact in ((amd_loss, reference.amd_loss), (at_loss, reference.at_loss)):
        value, gradient = with_gradient(loss, student, teacher, **options)
        wide = student.detach().double().requires_grad_()
        fixed = tokens_as_maps(teacher.detach().double(), prefix, *grid)
        expected = exact(tokens_as_maps(wide, prefix, *grid), fixed)
        (slope,) = torch.autograd.grad(expected, wide)
        torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=0.0)
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-8)
        assert not gradient[:, :prefix].any()


@pytest.mark.parametrize("backend", USABLE)
def test_tokens_sequences_and_volumes_have_the_global_part(backend):
    """Whatever the positions' order: the global part does not know of it."""
    volume, other = drawn(2, 4, 2, 3, 5), drawn(2, 6, 2, 3, 5, seed=1)
    maps = [a.detach().reshape(2, -1, 30, 1) for a in (volume, other)]
    exact = oracle.amd_loss(*([a.numpy()] for a in maps), local_weight=0.0)
    expected = torch.tensor(float(exact), dtype=torch.float64)
    sequences = [a.detach().reshape(2, -1, 30) for a in (volume, other)]
    tokens = [a.transpose(1, 2).contiguous() for a in sequences]
    for features, layout in (([volume, other], None), (sequences, "NCL"), (tokens, "NLC")):
        loss = amd_loss(*features, **GLOBAL, layout=layout, backend=backend)
        torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=0.0)
    layouts = [volume.contiguous(memory_format=torch.channels_last_3d), other]
    torch.testing.assert_close(
        amd_loss(*layouts, **GLOBAL, backend=backend).double(), expected, rtol=2e-5, atol=0.0
    )


@pytest.mark.parametrize("backend", USABLE)
def test_a_convolutional_student_learns_from_a_transformer(backend):
    student, tokens = drawn(2, 6, 4, 4), drawn(2, 17, 8, seed=1)
    options = {"layout": "NLC", "prefix_tokens": 1, "backend": backend}
    loss = amd_loss(student, tokens, grid=(4, 4), **options)
    expected = amd_loss(student, tokens_as_maps(tokens.detach(), 1, 4, 4), backend=backend)
    torch.testing.assert_close(loss, expected)
    pooled = amd_loss(student, tokens, grid=(2, 8), align="adaptive_avg", **options)
    expected = amd_loss(
        student,
        tokens_as_maps(tokens.detach(), 1, 2, 8),
        align="adaptive_avg",
        backend=backend,
    )
    torch.testing.assert_close(pooled, expected)


def test_sequences_of_unequal_length_are_pooled_along_it():
    short, long = drawn(2, 3, 5), drawn(2, 3, 10, seed=1)
    options = {"layout": "NCL", "backend": "reference"}
    loss = amd_loss(short, long, align="adaptive_avg", **GLOBAL, **options)
    halves = (long[..., 0::2] + long[..., 1::2]) / 2
    torch.testing.assert_close(loss, amd_loss(short, halves, **GLOBAL, **options))


def test_modules_pass_them_on():
    tokens, other = drawn(2, 5, 4), drawn(2, 5, 6, seed=1)
    options = {"layout": "NLC", "prefix_tokens": 1, "grid": [2, 2], "backend": "reference"}
    assert AMDLoss(**options)(tokens, other) == amd_loss(tokens, other, **options)
    assert ATLoss(**options)(tokens, other) == at_loss(tokens, other, **options)
    assert "layout='NLC', prefix_tokens=1, grid=[2, 2]" in repr(ATLoss(**options))


def test_compiles_as_one_graph():
    criterion = AMDLoss(layout="NLC", prefix_tokens=1, grid=(2, 2), backend="reference")
    tokens, other = drawn(2, 5, 4), drawn(2, 5, 6, seed=1)
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        with_gradient(compiled, tokens, other), with_gradient(criterion, tokens, other)
    )


MAPS, TOKENS, VOLUME = drawn(2, 3, 4, 4), drawn(2, 17, 8), drawn(2, 3, 2, 4, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "message"),
    [
        (
            TOKENS,
            TOKENS,
            {},
            'student is 3-D, and its axes may be either: layout="NLC" says tok',
        ),
        (TOKENS, TOKENS, {"layout": "NLC"}, "must have a 2-D grid for the local part"),
        (VOLUME, VOLUME, {}, "must have a 2-D grid for the local part"),
        (
            TOKENS,
            TOKENS,
            {"layout": "NLC", "grid": (4, 4)},
            r"student must have 4 x 4 positions, as grid=\(4, 4\) says, got 17: shape \(2, 17, 8\)",
        ),
        (
            TOKENS,
            TOKENS,
            {"layout": "NLC", "grid": (4, 4), "prefix_tokens": 2},
            "got 15 after 2 prefix_tokens",
        ),
        (
            TOKENS,
            TOKENS,
            {"layout": "NLC", "prefix_tokens": 17},
            "more than prefix_tokens=17 tokens",
        ),
        (
            MAPS,
            TOKENS,
            {"layout": "NLC", "prefix_tokens": 1, **GLOBAL},
            r"must have the same positions, got \(2, 3, 4, 4\) and \(2, 17, 8\); the tokens' "
            r"grid=\(H, W\) of amd_loss or AMDLoss makes maps of them",
        ),
        (
            TOKENS,
            TOKENS[:, :10],
            {"layout": "NLC", "align": "adaptive_avg", **GLOBAL},
            "same positions.*bring them to one size first",
        ),
        (VOLUME, VOLUME[:, :, :, :2], {"align": "adaptive_avg", **GLOBAL}, "to one size first"),
        (MAPS, VOLUME, GLOBAL, "to one size first"),
        (MAPS, MAPS, {"layout": "NHWC"}, "layout must be None, 'NLC' or 'NCL', got 'NHWC'"),
        (MAPS, MAPS, {"prefix_tokens": -1}, "prefix_tokens must be >= 0, got -1"),
        (MAPS, MAPS, {"prefix_tokens": 1}, 'prefix_tokens must be 0 unless layout="NLC", got 1'),
        (MAPS, MAPS, {"grid": (4, 4)}, r'grid must come with layout="NLC" or "NCL", got \(4, 4\)'),
        (MAPS, MAPS, {"layout": "NLC", "grid": (4,)}, r"grid must be two numbers \(H, W\) >= 1"),
        (MAPS, MAPS, {"layout": "NLC", "grid": (0, 4)}, r"grid must be two numbers \(H, W\) >= 1"),
        (TOKENS[:, :, :0], TOKENS, {"layout": "NLC"}, r"student must have axis 2 >= 1, got shape"),
    ],
)
def test_what_is_no_grid_is_said(student, teacher, options, message):
    with pytest.raises(ValueError, match=f"^amd_loss: .*{message}"):
        amd_loss(student, teacher, backend="reference", **options)


@pytest.mark.parametrize("options", [{"grid": 4}, {"grid": (4.0, 4.0)}, {"prefix_tokens": 1.0}])
def test_wrong_types_are_said(options):
    with pytest.raises(TypeError, match=f"^(AMD|AT)Loss: {next(iter(options))} must be"):
        AMDLoss(layout="NLC", **options)
    with pytest.raises(TypeError, match=f"^ATLoss: {next(iter(options))} must be"):
        ATLoss(layout="NLC", **options)
