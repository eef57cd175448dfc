"""A method has one name in any spelling; sums that make no sense are refused."""

from __future__ import annotations

from dataclasses import fields

import pytest

from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import TERMS, parse


def test_every_single_method_is_known_and_explained_in_a_line():
    assert [term.key for term in TERMS[:2]] == ["scratch", "kd"]
    for term in TERMS:
        assert parse(term.key).terms == (term,)
        assert term.help
        assert "\n" not in term.help


def test_methods_are_told_apart_by_name_label_and_look():
    for name in ("key", "label", "look"):
        assert len({getattr(term, name) for term in TERMS}) == len(TERMS)


def test_what_a_method_depends_on_are_settings_of_the_objective():
    groups = {option.name: option.metadata["group"] for option in fields(Settings)}
    for term in TERMS:
        assert bool(term.weight) == term.of_features
        for name in (term.weight, *term.settings) if term.weight else term.settings:
            assert groups[name] == "objective"
    # Each option of the objective but the method itself matters to some method.
    of_objective = {name for name, group in groups.items() if group == "objective"} - {"method"}
    for name in of_objective:
        assert any(parse(term.key).depends_on(name, "objective") for term in TERMS), name


@pytest.mark.parametrize(
    ("key", "own", "others"),
    [
        ("scratch", set(), {"ce_weight", "kd_weight", "temperature", "gamma", "backend"}),
        ("kd", {"ce_weight", "kd_weight", "temperature", "backend"}, {"gamma", "at_weight"}),
        ("amd-g", {"gamma", "margin", "scale"}, {"local_weight", "mask_threshold", "sp_weight"}),
        ("amd-gl+sp", {"local_weight", "sp_weight"}, {"mask_threshold", "lsh_hashes"}),
        ("lsh", {"lsh_weight", "lsh_hashes", "ce_weight"}, {"gamma", "nd_weight"}),
    ],
)
def test_a_method_depends_on_its_own_options_alone(key, own, others):
    method = parse(key)
    assert all(method.depends_on(name, "objective") for name in own)
    assert not any(method.depends_on(name, "objective") for name in others)
    assert method.depends_on("lr", "training")
    assert method.depends_on("student_layers", "networks") == method.maps
    assert method.depends_on("student_embedding", "networks") == method.embedding


def test_methods_are_ordered_as_they_are_listed_and_sums_come_last():
    keys = ["amd-gl+sp", "at+sp", "amd-g", "rkd", "kd", "scratch"]
    assert sorted(keys, key=lambda key: parse(key).order) == [
        *("scratch", "kd", "rkd", "amd-g", "at+sp", "amd-gl+sp"),
    ]


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
        ("cc", (True, False, True, False), ("cc",)),
        ("crd", (True, False, True, False), ("crd",)),
        ("vid", (True, True, False, False), ("vid",)),
        ("afd+nd", (True, True, True, True), ("nd", "afd")),
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
        ("sp+sp", r"must have each method once, and in one form, got 'sp\+sp'"),
        ("amd-g+amd-gl", "must have each method once, and in one form"),
        ("scratch+sp", "must leave scratch out of a sum, which has a teacher"),
        ("kd+sp", "must leave kd out of a sum: it is in every one, or skd in its place"),
        ("kd+skd", "must leave kd out of a sum"),
    ],
)
def test_methods_that_make_no_sense_are_refused_in_one_line(text, message):
    with pytest.raises(UsageError, match=f"--method {message}") as raised:
        parse(text)
    assert "\n" not in str(raised.value)
