"""The ND loss: right by hand, as accurate as eager PyTorch on every backend, finite at edges."""

from __future__ import annotations

import embeddings
import pytest
import torch
from measures import relative_error
from nd_oracle import CLASSES, Inputs, inputs, oracle, run

from amd_fused import nd_loss, reference

FUSED = ["cpp", "triton"]
ALL = ["reference", *FUSED]
# Beyond eager's own error: (loss, gradient), relative in the L2 norm.
TOLERANCE = {torch.float32: (2e-7, 1e-6), torch.float64: (1e-15, 1e-14)}


def check(backend: str, given: Inputs) -> None:
    truth, eager, ours = oracle(given), run("reference", given), run(backend, given)
    computed_in = reference.compute_dtype(given[:2])
    assert ours[0].dtype == computed_in
    assert ours[0].shape == ()
    tolerances = TOLERANCE[computed_in]
    for i, leaf in enumerate((None, *given[:2])):
        tolerance = tolerances[min(i, 1)]
        if leaf is not None:
            assert ours[i].dtype == leaf.dtype
            assert ours[i].shape == leaf.shape
        assert relative_error(ours[i], truth[i]) <= relative_error(eager[i], truth[i]) + tolerance


@pytest.mark.parametrize("shape", embeddings.SHAPES)
def test_reference_is_the_formula(shape: str) -> None:
    given = inputs(shape, "float64")
    for ours, truth in zip(run("reference", given), oracle(given), strict=True):
        assert relative_error(ours, truth) < 1e-14


@pytest.mark.parametrize("layout", embeddings.LAYOUTS)
@pytest.mark.parametrize("dtypes", embeddings.DTYPES)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_every_dtype_in_every_layout(backend: str, dtypes: str, layout: str) -> None:
    check(backend, inputs("odd", dtypes, layout))


@pytest.mark.parametrize("dtypes", ["float32", "float16 and float64"])
@pytest.mark.parametrize(
    ("backend", "shape"),
    [
        (backend, shape)
        for backend in FUSED
        for shape in embeddings.SHAPES
        # A Triton program is a sample, whatever their number, and the interpreter is slow.
        if shape != "one number" and (backend, shape) != ("triton", "many samples")
    ],
    indirect=["backend"],
)
def test_every_size(backend: str, shape: str, dtypes: str) -> None:
    check(backend, inputs(shape, dtypes))


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_one_number_has_no_direction_but_its_sign(backend: str) -> None:
    """1 - 1 and 1 + 1: the parts of the gradient cancel where the student is the longer."""
    given = inputs("one number")
    for ours, truth in zip(run(backend, given), oracle(given), strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_class_means_of_any_dtype_leave_the_result_in_float32(
    backend: str, dtype: torch.dtype
) -> None:
    given = inputs("odd")
    given = given._replace(class_means=given.class_means.to(dtype))
    assert run(backend, given)[0].dtype == torch.float32
    check(backend, given)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("backend", ["cpp", "reference"], indirect=True)
def test_labels_of_any_integer_dtype(backend: str, dtype: torch.dtype) -> None:
    given = inputs("odd")
    narrow = given._replace(target=given.target.to(dtype))
    assert torch.equal(run(backend, narrow)[0], run(backend, given)[0])


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_value_and_gradient_by_hand(backend: str) -> None:
    """Student (3, 4), teacher of norm 10, class mean along x: 1 - 3 / 10, by s -(1, 0) / 10."""
    given = Inputs(
        torch.tensor([[3.0, 4.0]]),
        torch.tensor([[6.0, 8.0]]),
        torch.tensor([1]),
        torch.tensor([[0.0, 1.0], [7.0, 0.0]]),
    )
    loss, by_s, by_t = run(backend, given)
    torch.testing.assert_close(loss, torch.tensor(0.7))
    torch.testing.assert_close(by_s, torch.tensor([[-0.1, 0.0]]))
    torch.testing.assert_close(by_t, torch.tensor([[0.018, 0.024]]))  # 3 / 100 * (6, 8) / 10


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_a_tie_of_norms_is_the_students(backend: str) -> None:
    """As with the released code's max(): its norm alone then has a gradient."""
    given = Inputs(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]]), torch.tensor([0]), torch.eye(2)[:1]
    )
    loss, by_s, by_t = run(backend, given)
    torch.testing.assert_close(loss, torch.tensor(0.4))
    torch.testing.assert_close(by_s, torch.tensor([[-0.2 + 3 * 3 / 125, 3 * 4 / 125]]))
    assert (by_t == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_zero_embeddings_and_means_have_finite_exact_gradients(
    backend: str, dtype: torch.dtype
) -> None:
    zero, some = torch.zeros(1, 2, dtype=dtype), torch.tensor([[3.0, 4.0]], dtype=dtype)
    mean, label = torch.eye(2)[:1], torch.tensor([0])

    loss, by_s, by_t = run(backend, Inputs(zero, some, label, mean))
    assert loss == 1
    torch.testing.assert_close(by_s, torch.tensor([[-0.2, 0.0]], dtype=dtype))
    assert (by_t == 0).all()

    loss, by_s, by_t = run(backend, Inputs(zero, zero, label, mean))
    assert loss == 1
    assert (by_s == 0).all()
    assert (by_t == 0).all()

    loss, by_s, by_t = run(backend, Inputs(some, some, label, torch.zeros(1, 2)))
    assert loss == 1
    assert (by_s == 0).all()
    assert (by_t == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("backend", ALL, indirect=True)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
def test_nan_and_inf_reach_the_loss_and_their_samples_gradient(
    backend: str, bad: float, side: int
) -> None:
    given = inputs("odd")
    given[side][2, 3] = bad
    loss, by_s, _ = run(backend, given)
    assert loss.isnan()
    assert by_s.isnan().any(1).tolist() == [b == 2 for b in range(7)]


@pytest.mark.parametrize("label", [-1, -(2**40), CLASSES, 2**40])
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_label_out_of_range_is_an_error_on_a_cpu(backend: str, label: int) -> None:
    given = inputs("odd")
    given.target[4] = label
    with pytest.raises(ValueError, match=f"target must be between 0 and 5, .* got {label}"):
        run(backend, given)


def test_label_out_of_range_is_an_error_in_a_compiled_graph_too() -> None:
    given = inputs("odd")
    given.target[4] = CLASSES
    compiled = torch.compile(nd_loss, fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match=r"target must be between 0 and 5, .* got 6"):
        compiled(*given, backend="cpp")


@pytest.mark.parametrize("labels", [(-1, CLASSES), (2**40, -(2**40))])
def test_kernel_gives_samples_of_other_labels_nothing(labels: tuple[int, int]) -> None:
    """What a GPU does, where a look at the labels would stop the host; NaN goes unheard as well."""
    given = inputs("odd")
    valid = oracle(given._replace(**{k: getattr(given, k)[2:] for k in Inputs._fields[:3]}))
    given.target[0], given.target[1] = labels
    given.student[0, 0] = torch.nan
    arguments = given.student, given.teacher, given.target, given.class_means
    loss, slopes = torch.ops.amd_fused.nd_fwd_triton(*arguments)
    grads = torch.ops.amd_fused.nd_bwd_triton(torch.ones(7), *arguments, slopes, [True, True])
    assert (loss[:2] == 0).all()
    assert relative_error(loss[2:].mean(), valid[0]) < 1e-6
    for grad, truth in zip(grads, valid[1:], strict=True):
        assert (grad[:2] == 0).all()
        assert relative_error(grad[2:], truth * 5) < 1e-6
    # The reference, without the check of the public function.
    assert relative_error(reference.nd_loss(*arguments), valid[0] * 5 / 7) < 1e-6
