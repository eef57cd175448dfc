"""Bad input has a message that names the argument, its rule, the value and any known remedy."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from amd_fused import AMDLoss, amd_loss, backends

S, T = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
META = torch.empty(2, 5, 4, 4, device="meta")
NUMBERS_OF = {"int": 1, "bool": True, "str": "1", "NoneType": None, "Tensor": torch.tensor(1.0)}
DTYPES = "must have dtype float32, float16, bfloat16 or float64"
SMALL = "must have height and width >= 2 for the local part (local_weight=0.2)"
HW = "must have the same height and width"
POOL = 'align="adaptive_avg" of amd_loss or AMDLoss pools the larger one'


def case(message: str, *arguments, error: type[Exception] = ValueError, **options):
    return pytest.param(arguments, options, error, f"amd_loss: {message}", id=message[:60])


# Full messages after "amd_loss: "; features of one pair, then those of a list of pairs.
BAD_FEATURES = [
    case(
        "student and teacher must have the same number of feature maps, got 2 and 1",
        [S, S],
        [T],
    ),
    case(
        "student must have at least one feature map, got an empty list",
        [],
        [],
    ),
    case(
        "teacher must have at least one feature map, got an empty list",
        [S],
        (),
    ),
    case(
        "student and teacher must both be a tensor or both a sequence of tensors, "
        "got Tensor and list",
        S,
        [T],
        error=TypeError,
    ),
    case(
        "student and teacher must both be a tensor or both a sequence of tensors, "
        "got tuple and Tensor",
        (S,),
        T,
        error=TypeError,
    ),
    case(
        "student and teacher must both be a tensor or both a sequence of tensors, "
        "got Tensor and NoneType",
        S,
        None,
        error=TypeError,
    ),
    case(
        "student must be a tensor or a list or tuple of tensors, got ndarray",
        S.numpy(),
        T.numpy(),
        error=TypeError,
    ),
    case(
        "student must be a tensor or a list or tuple of tensors, got dict",
        {"layer1": S},
        {"layer1": T},
        error=TypeError,
    ),
    case(
        "student must be a tensor or a list or tuple of tensors, got str", "S", "T", error=TypeError
    ),
    case("teacher[1] must be a tensor, got ndarray", [S, S], [T, T.numpy()], error=TypeError),
    case("student[0] must be a tensor, got NoneType", [None], [T], error=TypeError),
    case("student[0] must be a tensor, got list", [[S]], [[T]], error=TypeError),
    case(
        "teacher must be [B, C, H, W], [B, C, D, H, W] or, with a layout, [B, N, C] or [B, C, L], "
        "got 2-D: shape (2, 80)",
        S,
        T.flatten(1),
    ),
    case(
        "student must be [B, C, H, W], [B, C, D, H, W] or, with a layout, [B, N, C] or [B, C, L], "
        "got 0-D: shape ()",
        S.sum(),
        T.sum(),
    ),
    case("student must have B >= 1, got shape (0, 3, 4, 4)", S[:0], T[:0]),
    case("student must have C >= 1, got shape (2, 0, 4, 4)", S[:, :0], T),
    case("teacher must have C >= 1, got shape (2, 0, 4, 4)", S, T[:, :0]),
    case("student must have H >= 1, got shape (2, 3, 0, 4)", S[:, :, :0], T[:, :, :0]),
    case("teacher must have W >= 1, got shape (2, 5, 4, 0)", S, T[..., :0]),
    case("teacher must have the batch size of student (2), got 1: shape (1, 5, 4, 4)", S, T[:1]),
    case(
        "student[1] must have the batch size of student[0] (2), got 1: shape (1, 3, 4, 4)",
        [S, S[:1]],
        [T, T[:1]],
    ),
    case(
        "teacher must be on the device of student (cpu), got meta; move it with .to(...)",
        S,
        META,
    ),
    case(
        "student[1] must be on the device of student[0] (cpu), got meta; move it with .to(...)",
        [S, META],
        [T, META],
    ),
    case(f"student {DTYPES}, got torch.int64", S.long(), T, error=TypeError),
    case(f"teacher {DTYPES}, got torch.uint8", S, T.byte(), error=TypeError),
    case(f"teacher {DTYPES}, got torch.complex64", S, T.cfloat(), error=TypeError),
    case(f"student {DTYPES}, got torch.bool", S > 0, T, error=TypeError),
    case(
        f"student {DTYPES}, got torch.float8_e4m3fn",
        S.to(torch.float8_e4m3fn),
        T,
        error=TypeError,
    ),
    case(f"teacher {DTYPES}, got torch.float8_e5m2", S, T.to(torch.float8_e5m2), error=TypeError),
    case(
        "student must be a dense (strided) tensor, got layout torch.sparse_coo; "
        "convert it with .to_dense()",
        S.to_sparse(),
        T,
        error=TypeError,
    ),
    case(f"student and teacher {HW}, got (2, 3, 4, 4) and (2, 5, 4, 3); {POOL}", S, T[..., :3]),
    case(
        f"student[1] and teacher[1] {HW}, got (2, 3, 2, 4) and (2, 5, 4, 4); {POOL}",
        [S, S[:, :, :2]],
        [T, T],
    ),
    case(
        f"student and teacher {SMALL}, got (2, 3, 1, 4) and (2, 5, 1, 4); "
        "local_weight=0 of amd_loss or AMDLoss leaves the global part alone",
        S[:, :, :1],
        T[:, :, :1],
    ),
    case(
        f"student[1] and teacher[1] {SMALL}, got (2, 3, 4, 1) and (2, 5, 4, 1); "
        "local_weight=0 of amd_loss or AMDLoss leaves the global part alone",
        [S, S[..., :1]],
        [T, T[..., :1]],
    ),
    case(
        f"student and teacher {SMALL}, got (2, 3, 4, 4) and (2, 5, 4, 1); "
        "local_weight=0 of amd_loss or AMDLoss leaves the global part alone",
        S,
        T[..., :1],
        align="adaptive_avg",
    ),
    case(
        "layer_weights must have one weight for each of the 1 layer pairs, got 2",
        S,
        T,
        layer_weights=[1.0, 1.0],
    ),
    case(
        "layer_weights must have one weight for each of the 2 layer pairs, got 0",
        [S, S],
        [T, T],
        layer_weights=(),
    ),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD_FEATURES)
def test_bad_features_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        amd_loss(*arguments, **options)
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        AMDLoss(**options)(*arguments)


def not_numbers(name: str) -> list:
    return [
        (name, value, TypeError, f"{name} must be a number, got {kind}")
        for kind, value in NUMBERS_OF.items()
        if kind != "int" and not (kind == "NoneType" and name == "mask_threshold")
    ]


def out_of_range(name: str, rule: str, values: list[float]) -> list:
    return [(name, x, ValueError, f"{name} must be {rule}, got {x}") for x in values]


def not_a_choice(name: str, *choices: str) -> list:
    listed = ", ".join(map(repr, choices))
    others = ["other", choices[0].upper(), "", None, 1, True, [choices[0]]]
    return [
        (name, x, (TypeError, ValueError), f"{name} must be one of {listed}, got {x!r}")
        for x in others
    ]


def bad_weights(name: str) -> list:
    no_list = f"{name} must be a list or tuple of numbers, got"
    return [
        (name, 1.0, TypeError, f"{no_list} float"),
        (name, "111", TypeError, f"{no_list} str"),
        (name, {1.0, 2.0, 3.0}, TypeError, f"{no_list} set"),
        (name, np.ones(3), TypeError, f"{no_list} ndarray"),
        (name, torch.ones(3), TypeError, f"{no_list} Tensor"),
        (name, (1, "1", 1), TypeError, f"{name}[1] must be a number, got str"),
        (name, (1, 1, True), TypeError, f"{name}[2] must be a number, got bool"),
        (name, [-0.5, 1, 1], ValueError, f"{name}[0] must be finite and >= 0, got -0.5"),
        (name, [1, 1, math.nan], ValueError, f"{name}[2] must be finite and >= 0, got nan"),
        (name, [1, math.inf, 1], ValueError, f"{name}[1] must be finite and >= 0, got inf"),
    ]


NOT_FINITE = [math.nan, math.inf, -math.inf]
THREE = "component_weights must be three numbers, for the terms g, p and n of Eq. 7, got"
BAD_OPTIONS = [
    *not_numbers("margin"),
    *out_of_range("margin", "finite and > 0", [0, 0.0, -1.35, *NOT_FINITE]),
    *not_numbers("scale"),
    *out_of_range("scale", "finite and > 0", [0, -64.0, *NOT_FINITE]),
    *not_numbers("local_weight"),
    *out_of_range("local_weight", "between 0 and 1", [-0.1, 1.001, *NOT_FINITE]),
    *not_a_choice("formula", "paper", "released"),
    *bad_weights("component_weights"),
    ("component_weights", None, TypeError, "component_weights must be a list or tuple of numbers"),
    ("component_weights", (), ValueError, f"{THREE} 0"),
    ("component_weights", (1.0, 1.0), ValueError, f"{THREE} 2"),
    ("component_weights", [1.0] * 4, ValueError, f"{THREE} 4"),
    *not_numbers("mask_threshold"),
    *out_of_range("mask_threshold", "None or in [0, 1)", [-0.1, 1, 1.0, *NOT_FINITE]),
    *bad_weights("layer_weights"),
    *not_numbers("eps"),
    *out_of_range("eps", "finite and >= 0", [-1e-6, *NOT_FINITE]),
    *not_a_choice("reduction", "mean", "batchmean", "none"),
    *not_a_choice("align", "error", "adaptive_avg"),
    *not_a_choice("backend", "auto", "triton", "cuda", "cpp", "reference"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_OPTIONS)
def test_bad_options_are_named(name, value, error, message):
    with pytest.raises(error, match=f"^amd_loss: {re.escape(message)}"):
        amd_loss(S, T, **{name: value})
    with pytest.raises(error, match=f"^AMDLoss: {re.escape(message)}"):
        AMDLoss(**{name: value})


def test_options_are_checked_before_features():
    with pytest.raises(ValueError, match=r"^amd_loss: margin"):
        amd_loss(None, None, margin=-1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("margin", 1),
        ("margin", np.float64(1.35)),
        ("scale", 1e-3),
        ("local_weight", 0),
        ("local_weight", 1),
        ("component_weights", [0, 0, 1]),
        ("mask_threshold", 0),
        ("mask_threshold", 0.999),
        ("layer_weights", [0]),
        ("eps", 0),
    ],
)
def test_what_is_just_within_the_rules_is_taken(name, value):
    loss = amd_loss(S, T, backend="reference", **{name: value})
    assert loss.isfinite()


def test_one_row_or_column_is_enough_without_the_local_part():
    for student, teacher in ((S[:, :, :1], T[:, :, :1]), (S[..., :1], T[..., :1])):
        assert amd_loss(student, teacher, local_weight=0, backend="reference") > 0


def test_unknown_and_positional_options_are_refused():
    with pytest.raises(TypeError, match="'temperature' is none of its options, which are margin"):
        amd_loss(S, T, temperature=4.0)
    with pytest.raises(TypeError, match="positional argument"):
        amd_loss(S, T, 1.35)


@pytest.mark.skipif(backends()["cpp"] != "usable", reason=f"backend cpp is {backends()['cpp']}")
def test_a_fused_backend_refuses_forward_mode_derivatives():
    """Never a wrong number: a custom operator would give a tangent of 0."""
    with pytest.raises(RuntimeError, match=r"forward.mode"):
        torch.func.jvp(lambda s: amd_loss(s, T, backend="cpp"), (S,), (torch.ones_like(S),))
