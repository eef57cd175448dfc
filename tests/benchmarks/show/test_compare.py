"""`python -m benchmarks compare`: changes that are known, in noise that is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import result_files as files

from benchmarks.show import compare, ratio

ROUNDS = 40


def noisy(seed, spread, drift=0.0, factors=None):
    """A result whose rounds scatter by ``spread`` around each variant's time.

    The machine as a whole gets slower by ``drift`` from the first round to the last.
    """
    generator = np.random.default_rng(seed)
    slower = np.linspace(1, 1 + drift, ROUNDS)

    def rounds(ms):
        return list(ms * slower * generator.lognormal(0, spread, ROUNDS))

    cases = [files.case("shape-a"), files.case("shape-b")]
    for case in cases:
        case["copy"]["rounds_ms"] = rounds(5.0)
        for v in case["variants"]:
            factor = (factors or {}).get(v["key"], 1.0)
            for stage, values in v["rounds_ms"].items():
                v["rounds_ms"][stage] = rounds(factor * values[0])
    return files.result("losses", cases)


def told(a, b, key="amd_fused", **options):
    title = (files.OURS | files.PEERS)[key][0]
    compared, _ = compare.rows(a, b, options.get("stages", ["total"]), options.get("by", "eager"))
    return [row.told for row in compared if row.variant == title]


@pytest.mark.parametrize(("factor", "word"), [(1.1, "slower"), (0.9, "faster")])
def test_change_of_a_tenth_is_told_in_noise_of_a_few_percent(factor, word):
    a, b = noisy(1, 0.04), noisy(2, 0.04, factors={"amd_fused": factor})
    assert told(a, b) == [word, word]
    assert told(a, b, "attention") == ["within noise"] * 2


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_told_of_two_runs_of_one_code(seed):
    a, b = noisy(2 * seed, 0.1), noisy(2 * seed + 1, 0.1)
    compared, notes = compare.rows(a, b, ["total", "forward", "backward"], "eager")
    assert {row.told for row in compared} == {"within noise"}
    assert len(compared) == 2 * 6 * 3
    assert notes == []


def test_change_of_a_tenth_is_not_told_where_noise_hides_it():
    a, b = noisy(3, 0.5), noisy(4, 0.5, factors={"amd_fused": 1.1})
    assert told(a, b) == ["within noise"] * 2


def test_drift_of_the_machine_is_divided_out():
    slow = dict.fromkeys([*files.OURS, *files.PEERS], 1.5)
    a, b = noisy(5, 0.02), noisy(6, 0.02, drift=0.6, factors=slow)
    assert told(a, b) == ["within noise"] * 2
    ours = {by: compare.rows(a, b, ["total"], by)[0][0].ratio for by in ("eager", "none")}
    assert ours["eager"].value == pytest.approx(1.0, abs=0.02)
    # Half way through the drift: 1.5 times 1.3.
    assert ours["none"].value == pytest.approx(1.95, abs=0.05)


def test_noise_is_what_unchanged_peers_changed_by():
    """Peers that moved by 15 % of themselves: a change of 10 % may be nothing."""
    moved = {"compile": 1.15, "released": 1 / 1.15, "at": 1.15}
    a, b = noisy(7, 0.02), noisy(8, 0.02, factors=moved | {"amd_fused": 1.1})
    compared, _ = compare.rows(a, b, ["total"], "eager")
    assert [row.noise for row in compared] == [pytest.approx(0.15, abs=0.02)] * len(compared)
    assert told(a, b) == ["within noise"] * 2
    assert (
        told(noisy(7, 0.02), noisy(8, 0.02, factors=moved | {"amd_fused": 1.4})) == ["slower"] * 2
    )


def test_yardstick_is_the_copy_for_the_eager_reference_itself():
    a = noisy(9, 0.02)
    by = {row.variant: row.yardstick for row in compare.rows(a, a, ["total"], "eager")[0]}
    assert by["eager reference"] == "copy"
    assert {name for title, name in by.items() if title != "eager reference"} == {"eager"}


def test_ratio_is_that_of_the_medians_within_its_interval():
    generator = np.random.default_rng(0)
    a, b = generator.normal(10, 0.5, 200), generator.normal(12, 0.5, 200)
    found = ratio.ratio(list(a), list(b))
    assert found.value == np.median(b) / np.median(a)
    assert 1.15 < found.low < 1.2 < found.high < 1.25
    same = ratio.ratio([2.0] * 9, [3.0] * 9)
    assert (same.value, same.low, same.high) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    ("low", "high", "noise", "word"),
    [
        (1.06, 1.12, 0.05, "slower"),
        (1.04, 1.12, 0.05, "within noise"),  # it may be 4 %
        (0.90, 0.95, 0.05, "faster"),
        (0.90, 0.96, 0.05, "within noise"),  # 1 / 1.05 is 0.952
        (0.80, 1.30, 0.05, "within noise"),
    ],
)
def test_row_is_told_if_the_whole_interval_is_beyond_the_noise(low, high, noise, word):
    assert ratio.Ratio((low + high) / 2, low, high).told(noise) == word


def test_few_rounds_tell_nothing():
    short = files.result("losses", [files.case("s", rounds=ratio.LEAST_ROUNDS - 1)])
    assert told(short, short) == ["fewer than 5 rounds"]


@pytest.fixture
def pair(tmp_path):
    def written(a, b):
        paths = tmp_path / "a.json", tmp_path / "b.json"
        for path, result in zip(paths, (a, b), strict=True):
            path.write_text(json.dumps(result))
        return [str(path) for path in paths]

    return written


def test_exit_status_and_table_tell_what_is_slower(pair, capsys):
    a = noisy(1, 0.02)
    assert compare.main(pair(a, a)) == 0
    assert compare.main(pair(a, noisy(2, 0.02, factors={"amd_fused": 0.8}))) == 0
    assert compare.main(pair(a, noisy(2, 0.02, factors={"eager": 1.3, "at": 1.3}))) == 0
    capsys.readouterr()
    assert compare.main(pair(a, noisy(2, 0.02, factors={"amd_fused": 1.3}))) == 1
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "shape-a" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["amd, shape-a, nchw, float32, B = 2", "amd_fused (cpp)"]
    assert float(cells[4].split()[0]) == pytest.approx(1.3, abs=0.03)
    assert cells[-1] == "slower"
    assert out.rstrip().endswith("ours: 2 slower, 0 without a time any more")


def test_variant_of_ours_that_lost_its_time_fails_and_says_why(pair, capsys):
    a, b = noisy(1, 0.02), noisy(1, 0.02)
    b["cases"][0]["variants"][0].update(status="refused", reason="loss off by 1")
    b["cases"][1]["variants"][1].update(status="left out", reason="no time left")
    assert compare.main(pair(a, b)) == 1
    out = capsys.readouterr().out
    assert "no time in B: amd, shape-a, nchw, float32, B = 2, amd_fused (cpp) (refused, " in out
    assert "timed only in A: amd, shape-b, nchw, float32, B = 2, eager reference" in out


def test_other_device_versions_and_a_busy_machine_are_warned_about_by_name(pair, capsys):
    a, b = noisy(1, 0.02), noisy(1, 0.02)
    b["environment"].update(device="Other CPU", torch="2.14.0", load_average=3.0)
    b["finished"] = False
    compare.main(pair(a, b))
    out = capsys.readouterr().out
    for warning in (
        "device differs: Test CPU in A, Other CPU in B",
        "torch differs: 2.13.0 in A, 2.14.0 in B",
        "B began on a busy machine: load average 3.0, 2 cores",
        "B was stopped before its end",
    ):
        assert f"warning: {warning}" in out
    assert "warning: threads" not in out


def test_files_that_cannot_be_compared_end_with_status_2(pair, capsys):
    losses = files.result("losses", [files.case("s")])
    scaling = files.result("scaling", files.scaling_cases())
    for other, message in (
        (scaling, "command must be losses, as in"),
        (losses | {"schema": 2}, "schema must be 3, got 2"),
        (losses | {"cases": []}, "have no case in common"),
    ):
        with pytest.raises(SystemExit) as ended:
            compare.main(pair(losses | {"cases": []} if not other["cases"] else losses, other))
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
