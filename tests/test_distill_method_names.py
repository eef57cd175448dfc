"""A method has one name in any spelling; sums that make no sense are refused."""

from __future__ import annotations

import pytest

from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import KNOWN, parse


def test_every_single_method_is_known_and_explained_in_a_line():
    assert list(KNOWN)[:2] == ["scratch", "kd"]
    for key, help_text in KNOWN.items():
        assert parse(key).key == key
        assert help_text
        assert "\n" not in help_text


@pytest.mark.parametrize(
    ("text", "key", "label"),
    [
        ("scratch", "scratch", "Scratch"),
        ("kd", "kd", "KD"),
        (" AMD-GL ", "amd-gl", "AMD (g+l)"),
        ("amd-masked-g", "amd-masked-g", "masked AMD (g)"),
        ("amd-gl+sp", "amd-gl+sp", "AMD (g+l) + SP"),
        ("sp + amd-gl", "amd-gl+sp", "AMD (g+l) + SP"),
        ("nd+skd", "skd+nd", "SKD + ND"),
    ],
)
def test_a_sum_has_one_key_and_label_in_any_order(text, key, label):
    assert (parse(text).key, parse(text).label) == (key, label)
    assert parse(key) == parse(text)


@pytest.mark.parametrize(
    ("key", "needs", "losses"),
    [
        ("scratch", (False, False, False, False), ()),
        ("kd", (True, False, False, False), ()),
        ("skd", (True, False, False, False), ()),
        ("nd", (True, False, True, True), ("nd",)),
        ("lsh", (True, False, True, True), ("lsh",)),
        ("rkd", (True, False, True, False), ("rkd",)),
        ("at", (True, True, False, False), ("at",)),
        ("sp", (True, True, False, False), ("sp",)),
        ("amd-masked-gl", (True, True, False, False), ("amd",)),
        ("amd-gl+sp", (True, True, False, False), ("amd", "sp")),
        ("skd+nd+at", (True, True, True, True), ("nd", "at")),
    ],
)
def test_a_method_says_what_it_needs(key, needs, losses):
    method = parse(key)
    assert (method.distilled, method.maps, method.embedding, method.class_means) == needs
    assert method.losses == losses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amd", "must be one of scratch, kd, .* got 'amd'; near matches: amd-g"),
        ("", "must be one of .*, got ''"),
        ("amd-gl+", r"must be one of .*, got 'amd-gl\+'"),
        ("sp+sp", r"must have each method once, and AMD in one form, got 'sp\+sp'"),
        ("amd-g+amd-gl", "must have each method once, and AMD in one form"),
        ("scratch+sp", "must leave scratch out of a sum, which has a teacher"),
        ("kd+sp", "must leave kd out of a sum: it is in every one, or skd in its place"),
        ("kd+skd", "must leave kd out of a sum"),
    ],
)
def test_methods_that_make_no_sense_are_refused_in_one_line(text, message):
    with pytest.raises(UsageError, match=f"--method {message}") as raised:
        parse(text)
    assert "\n" not in str(raised.value)
