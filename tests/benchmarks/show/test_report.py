"""Result files, and `python -m benchmarks report`: tables and pictures of known figures."""

from __future__ import annotations

import json

import pytest
import result_files as files

from benchmarks import __main__
from benchmarks.measure import environment, results
from benchmarks.show import report, schema


def written(path, result):
    path.write_text(json.dumps(result))
    return path


@pytest.fixture
def losses_file(tmp_path):
    cases = [files.case("shape-a"), files.case("shape-b")]
    refused = cases[1]["variants"][3]
    figures = schema.CASES["losses"]["variants"][0](refused)
    unnamed = [name for name in figures if name in ("graph", "host_ms") or name.endswith("_ms")]
    refused.update(dict.fromkeys(unnamed))
    refused.update(status="refused", reason="loss off by 1", peak_extra_bytes=None, ratios=None)
    return written(tmp_path / "cpu-losses.json", files.result("losses", cases))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_summary_has_ours_over_the_floor_and_peers_over_ours(losses_file, tmp_path):
    assert __main__.main(["report", str(losses_file), "--out", str(tmp_path)]) == 0
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[0] == "# Benchmark report"
    assert "## Test CPU, 2 threads" in lines
    named = "Test CPU, 2 of 2 cores, torch 2.13.0, amd_fused 0.1.0, commit 0123456789ab, "
    assert f"{named}2026-11-21T03:04:05+00:00." in lines
    head = next(i for i, line in enumerate(lines) if line.startswith("| case "))
    assert cells(lines[head])[:4] == ["case", "floor", "amd_fused (cpp)", "eager reference"]
    # 2 ms of 1.6: 1.25. Peers: 8, 4 and 10 over 2; of the attention part 6 over 1.5.
    row = ["shape-a, nchw, float32", "1.600", "2 (1.25)", "8 (4.0x)", "4 (2.0x)", "10 (5.0x)"]
    assert cells(lines[head + 2]) == [*row, "1.5 (0.94)", "6 (4.0x)"]
    assert cells(lines[head + 3])[5] == "refused"
    assert "released style, global only: refused, loss off by 1" in lines


def test_files_of_several_machines_are_kept_apart_and_each_is_named(tmp_path):
    one = files.result("losses", [files.case("s")])
    gpu = files.result("losses", [files.case("s")], device="NVIDIA Test", device_type="cuda")
    gpu["environment"]["cuda"] = {"runtime": "13.0", "driver": "580.1"}
    paths = [written(tmp_path / f"{name}.json", r) for name, r in (("a", one), ("b", gpu))]
    text = report.render(
        [report.Source(path, results.read(path)) for path in paths], {path: [] for path in paths}
    )
    machines = [line for line in text.splitlines() if line.startswith("## ")]
    assert machines == ["## Test CPU, 2 threads", "## NVIDIA Test"]
    assert "NVIDIA Test, CUDA 13.0, driver 580.1" in text


def test_pictures_are_written_and_not_blank(losses_file, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    scaling = written(tmp_path / "cpu-scaling.json", files.result("scaling", files.scaling_cases()))
    out = tmp_path / "out"
    assert report.main([str(losses_file), str(scaling), "--out", str(out)]) == 0
    text = (out / "report.md").read_text()
    names = ["cpu-losses-floor.png", "cpu-losses-memory.png", "cpu-scaling-cost.png"]
    assert sorted(path.name for path in out.glob("*.png")) == names
    for name in names:
        assert f"]({name})" in text
        assert (out / name).stat().st_size < 150_000
        picture = Image.open(out / name).convert("RGB")
        colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
        assert picture.width >= 1000
        assert len(colours) > 10


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def test_bars_are_labelled_and_name_device_versions_commit_and_date(losses_file):
    pytest.importorskip("matplotlib")
    from benchmarks.show import pictures

    result = results.read(losses_file)
    figure = pictures.floor_figure(result)
    assert [axes.get_xlabel() for axes in figure.axes] == ["time / floor"] * 2
    first, second = figure.axes
    assert [tick.get_text() for tick in first.get_yticklabels()][:2] == ["amd_fused (cpp)", "eager"]
    # Forward and backward of the first bar: 1.5 and 0.5 of 1.6 ms.
    widths = [patch.get_width() for patch in first.patches[:2]]
    assert widths == pytest.approx([1.5 / 1.6, 0.5 / 1.6])
    assert "1.25 (2.00 ms)" in [text.get_text() for text in first.texts]
    assert "refused" in [text.get_text() for text in second.texts]
    for made in (figure, pictures.memory_figure(result)):
        caption = " ".join(made.get_supxlabel().split())
        for said in ("Test CPU", "torch 2.13.0", "0.1.0", "0123456789ab", "2026-11-21"):
            assert said in caption
    memory = pictures.memory_figure(result).axes[0]
    assert memory.get_xlabel() == "peak allocated / gradient"
    assert memory.patches[0].get_width() == pytest.approx(1.0)


def test_curves_have_log_axes_in_order_of_size_and_the_floor(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.show import pictures

    figure = pictures.scaling_figure(files.result("scaling", files.scaling_cases()))
    batch, side = figure.axes
    assert batch.get_xlabel() == "batch (maps of 3 x 4 x 4)"
    assert side.get_xlabel() == "height = width of the maps (3 channels, batch 2)"
    for axes, sizes in ((batch, [1, 4, 16]), (side, [7, 14, 28])):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert axes.get_ylabel() == "forward and backward (ms)"
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines["amd_fused (cpp)"].get_xdata()) == sizes
        assert list(lines["amd_fused (cpp)"].get_ydata()) == [2.0] * 3
        assert list(lines["floor (a plain copy)"].get_ydata()) == [1.6] * 3
    # Two sets of 400 bytes fit into a cache of 1000.
    assert "inputs in cache" in batch.get_legend_handles_labels()[1]
    assert "inputs in cache" not in side.get_legend_handles_labels()[1]
    assert any("Test CPU" in text for text in texts(figure))


def test_time_in_a_graph_is_what_counts_on_a_gpu():
    variant = files.case("s")["variants"][0]
    assert report.milliseconds(variant) == 2.0
    graph = {"status": "ok", "reason": "", "total_ms": files.spread(1.0)}
    assert report.milliseconds(variant | {"graph": graph}) == 1.0
    failed = {"status": "failed", "reason": "no", "total_ms": None}
    assert report.milliseconds(variant | {"graph": failed}) == 2.0
    assert report.milliseconds(variant | {"status": "refused"}) is None


def changed(**fields):
    return files.result("losses", [files.case("s")]) | fields


def without(name):
    result = files.result("losses", [files.case("s")])
    del result["cases"][0]["variants"][1]["rounds_ms"]["total"]
    return result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "cannot be read as JSON"),
        (json.dumps(changed(schema=2)), "schema must be 3, got 2; measure again"),
        (json.dumps({"benchmarks": []}), "schema must be 3, got None; no result file"),
        (json.dumps(changed(command="gpu")), "command must be one of losses, siblings, scaling, "),
        (json.dumps(changed(finished=1)), "finished must be bool, got 1"),
        (json.dumps(changed(cases={})), "cases must be a list, got {}"),
        (json.dumps(without("total")), "cases[0].variants[1].rounds_ms.total is missing"),
    ],
)
def test_foreign_or_stale_file_is_refused_by_file_and_field(tmp_path, capsys, content, message):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        report.main([str(path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert f"{path}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "spec", "said"),
    [
        ({"a": [1, 2.5]}, {"a": [schema.NUMBER]}, ""),
        ({"a": [1, None]}, {"a": [schema.NUMBER]}, "a[1] must be a number, got None"),
        ({"a": True}, {"a": int}, "a must be int, got True"),
        ({"a": None}, {"a": schema.Maybe(int)}, ""),
        ({"a": "x"}, {"a": schema.Maybe(int)}, "a must be int, got 'x'"),
        ({"a": 3}, {"a": {"b": int}}, "a must be an object, got 3"),
    ],
)
def test_first_wrong_field_is_named(value, spec, said):
    assert schema.wrong(value, spec) == said


def test_files_that_are_missing_are_left_out_if_asked(tmp_path, capsys):
    missing = str(tmp_path / "missing.json")
    assert report.main([missing, "--skip-missing", "--out", str(tmp_path)]) == 0
    assert "there are no result files" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        report.main([missing, "--out", str(tmp_path)])


def test_report_without_matplotlib_has_no_pictures_and_says_so(
    losses_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(environment, "has", lambda name: False)
    assert report.main([str(losses_file), "--out", str(tmp_path)]) == 0
    assert "pictures left out: matplotlib is not installed" in capsys.readouterr().out
    assert "![" not in (tmp_path / "report.md").read_text()


def test_summary_has_a_table_a_subject():
    lines = report.summary(files.siblings()["cases"]).splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    rows = [row for row in rows if not row.startswith("-")]
    of_a, of_b = ("a, nchw, float32", "b, nchw, float32")
    assert rows == ["amd", of_a, of_b, "lsh", of_a]


def test_picture_marks_each_variant_and_the_floor_in_units_of_ours():
    pytest.importorskip("matplotlib")
    from benchmarks.show import pictures

    result = files.siblings()
    del result["cases"][1]["variants"][0]  # --variants eager, say
    figure = pictures.siblings_figure(result)
    (axes,) = figure.axes
    assert axes.get_yticklabels()[2].get_text() == "lsh: a, nchw, float32 (2.00 ms)"
    assert axes.get_yticklabels()[1].get_text() == "amd: b, nchw, float32 (no time)"
    of_last = sorted(x for line in axes.get_lines()[:-1] for x, y in [line.get_data()] if y[0] == 2)
    # Ours takes 2 ms, the floor 1.6, the attention part 1.5 and 6, the others 8, 4 and 10.
    assert of_last == pytest.approx([0.75, 0.8, 1.0, 2.0, 3.0, 4.0, 5.0])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["amd_fused", "eager"]
    assert {"torch.compile", "floor"} <= set(names)
    assert "Test CPU" in figure.get_supxlabel()
