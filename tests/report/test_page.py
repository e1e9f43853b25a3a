import dataclasses
import json
import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest

from mcgm.errors import DataError
from mcgm.report import Predictions, read_results, report_command, write_report
from mcgm.report.drawing import panels, svg_file
from mcgm.report.figures import cluster_stability, error_by_size, learning_curves, variant_colors
from mcgm.report.summary import summarize
from mcgm.report.table import columns
from mcgm.report.view import asset, json_in_html, script_in_html

HOSTILE = "</script><script>document.title='taken'</script><!--"


class Page(HTMLParser):
    """Elements, attributes, the cells of tables and the text of scripts, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self.scripts, self.text = [], [], [], [], ""
        self.open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")
        if tag in ("td", "th", "script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        where = self.open[-1] if self.open else ""
        if where == "script":
            self.scripts[-1] += data
        elif where in ("td", "th"):
            self.rows[-1][-1] += data
        elif where == "":
            self.text += data


def write(folder, tmp_path):
    report_command(folder, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_nothing_is_loaded_from_elsewhere(report):
    text = report.read_text()
    loading = [
        (tag, name, value)
        for tag, name, value in Page(text).attributes
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    ]
    assert loading
    assert [entry for entry in loading if not entry[2].startswith(("data:", "#")) and entry[2] != ""] == []
    style = "".join(re.findall(r"<style.*?</style>", text, re.DOTALL))
    assert not re.search(r"@import|url\((?!['\"]?[#d])", style)
    assert "default-src 'none'" in text


def test_the_table_holds_the_figures_that_were_computed(report, written):
    page = Page(report.read_text())
    rows = summarize(read_results(written))
    chosen = columns(rows)
    assert page.rows[1:3] == [[column.text(row) for column in chosen] for row in rows]
    assert page.rows[1][:3] == ["SchNet", "210 ± 10", "52.5 ± 2.5"]
    assert page.rows[2][-2] == "−47.5 ± 2.5"
    assert "energy MAE 47.5\u00a0% lower seed by seed (mean 110 instead of 210 meV" in page.text


def test_hostile_names_stay_text(tmp_path, cell_writer):
    folder = tmp_path / "cells"
    tricks = {"label": HOSTILE, "dataset": HOSTILE, "command": HOSTILE, "config": {HOSTILE: HOSTILE}}
    cell_writer(folder, "schnet", 0, 0.2, **tricks)
    cell_writer(folder, "schnet_mcgm", 0, 0.1, molecule=HOSTILE, **tricks)
    text = write(folder, tmp_path)
    page = Page(text)
    assert page.tags.count("script") == 3
    assert "document.title" not in "".join(page.scripts[1:])
    assert HOSTILE in [row[0] for row in page.rows]
    molecules = json.loads(page.scripts[0])["variants"][0]["molecules"]
    assert molecules[0]["name"] == HOSTILE
    assert text.rstrip().endswith("</html>")


def test_the_view_holds_the_clusters_of_variants_that_have_some(report):
    scene = json.loads(Page(report.read_text()).scripts[0])
    assert [variant["label"] for variant in scene["variants"]] == ["SchNet + MCGM"]
    levels = scene["variants"][0]["molecules"][0]["levels"]
    assert [level["label"] for level in levels] == [[0, 1, 1], [0, 0, 1]]
    assert scene["symbols"] == {"1": "H", "8": "O"}


def test_the_licence_of_the_viewer_is_in_the_page(report):
    assert "University of Pittsburgh" in report.read_text()


def test_figures_and_table_are_written_beside_the_page(report):
    names = {"learning_curves", "energy_parity", "force_parity", "error_by_size"}
    found = {path.name for path in (report.parent / "report_figures").iterdir()}
    assert found == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert "| SchNet + MCGM |" in report.with_suffix(".md").read_text()
    assert report.read_text().count("<figure>") == len(names)


def test_one_seed_without_forces_and_clusters_gives_a_report(tmp_path, cell_writer):
    folder = tmp_path / "cells"
    cell_writer(folder, "schnet", 0, 0.2, with_forces=False, clusters=None)
    page = Page(write(folder, tmp_path))
    assert "script" not in page.tags
    assert "Nothing is compared" in page.text
    assert not (tmp_path / "report_figures" / "force_parity.svg").exists()


def test_stability_of_clusters_is_drawn_for_the_levels_that_some_run_has(tmp_path, result_maker):
    local = result_maker("schnet", 0, 0.2)
    levels = ((), (2,), (2, 3), (2, 3))
    curves = [
        dataclasses.replace(point, rand_index=(0.4, 0.9)[: len(known)], rand_index_levels=known)
        for point, known in zip(local.curves, levels, strict=True)
    ]
    clustered = result_maker("schnet_mcgm", 0, 0.1, curves=curves)
    groups = {"schnet": [local], "schnet_mcgm": [clustered]}
    panels = cluster_stability(groups, variant_colors(list(groups))).axes
    lines = [[line.get_xydata().tolist() for line in panel.lines] for panel in panels]
    assert lines == [[[[2, 0.4], [3, 0.4], [4, 0.4]]], [[[3, 0.9], [4, 0.9]]]]
    assert cluster_stability({"schnet": [local]}, {}) is None
    dataclasses.replace(clustered, reference=None).save(tmp_path / "cells/schnet_mcgm-0.json")
    assert "Stability of clusters" in write(tmp_path / "cells", tmp_path)


def test_errors_by_size_of_other_test_sets_are_those_of_the_sizes_in_common():
    """Errors are as many meV as there are atoms, so that any other group in the place of one would show."""

    def tested(*sizes, factor=1.0):
        energy = np.zeros(len(sizes))
        return Predictions([str(k) for k in range(len(sizes))], sizes, energy, factor * np.array(sizes) / 1000)

    def drawn(*items):
        figure = error_by_size({"a": items}, {"a": "A"}, variant_colors(["a"]))
        (panel,) = figure.axes
        bands = [band.get_paths()[0].get_extents().intervaly.tolist() for band in panel.collections]
        return [line.get_xydata().tolist() for line in panel.lines], bands

    first, second = tested(2, 2, 5, 5, 9, 9), tested(2, 2, 9, 9, 20, 20, factor=3.0)
    lines, bands = drawn(first, second)
    assert lines == [[[2, pytest.approx(4)], [9, pytest.approx(18)]]]
    assert bands == [pytest.approx([2, 27])]
    assert drawn(first, tested(30, 31))[0] == []
    assert drawn(tested(4, 4)) == ([[[4, pytest.approx(4)]]], [])


def test_a_report_of_other_test_sets_says_so(comparison, tmp_path):
    path = comparison / "schnet-1.json"
    result = json.loads(path.read_text())
    smaller = Predictions(["a", "b"], [2, 12], [0.0, 0.0], [0.2, 0.4])
    smaller.save(comparison / result["predictions"])
    result["metrics"] |= dataclasses.asdict(smaller.metrics)
    path.write_text(json.dumps(result))
    assert "The test sets differ in size" in Page(write(comparison, tmp_path)).text


def test_errors_on_the_validation_part_are_not_called_those_of_a_test(tmp_path, cell_writer):
    cell_writer(tmp_path / "cells", "schnet", 0, 0.2, part="validation")
    page = Page(write(tmp_path / "cells", tmp_path))
    assert "No test part: errors are those of the validation part" in page.text
    assert "6 validation structures" in page.text
    assert "Validation set, first seed" in page.text
    assert "Test set" not in page.text


def test_a_report_of_several_experiments_is_refused(comparison, tmp_path):
    def change(**settings):
        path = comparison / "schnet-1.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"config": settings}))

    first = comparison / "schnet-0.json"
    settings = {
        "training": {"steps": 100, "seed": 0},
        "model": {"cutoff": 5.0},
        "data": {"path": "here", "limit": None},
    }
    first.write_text(json.dumps(json.loads(first.read_text()) | {"config": settings}))
    change(training={"steps": 100, "seed": 1, "later": True}, data={"path": "there", "limit": None})
    write(comparison, tmp_path)
    others = (
        ({"training": {"steps": 400}}, r"training.steps \(100, 400\)"),
        ({"model": {"cutoff": 6.0}}, r"model.cutoff \(5.0, 6.0\)"),
        ({"data": {"path": "there", "limit": 50}}, r"data.limit \(None, 50\)"),
    )
    for other, message in others:
        change(**settings | other)
        with pytest.raises(DataError, match=f"schnet: seeds 0 and 1 differ in {message}; required: one experiment"):
            write(comparison, tmp_path)


def test_results_alone_give_a_report(tmp_path, result_maker):
    write_report([result_maker("schnet", 0, 0.2, curves=())], tmp_path, tmp_path / "report.html")
    assert "<figure>" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("label", ["_hidden", "a $x^{ b", "$", "<b>&"])
def test_labels_that_mean_something_to_matplotlib_are_drawn(label, result_maker):
    figure = learning_curves({"schnet": [result_maker("schnet", 0, 0.2, label=label)]}, variant_colors(["schnet"]))
    assert len(figure.legends[0].get_texts()) == 1
    assert b"<path" in svg_file(figure)


def test_drawing_leaves_matplotlib_as_it_was(tmp_path, result_maker):
    before = dict(mpl.rcParams)
    write_report([result_maker("schnet", 0, 0.2)], tmp_path, tmp_path / "report.html")
    assert dict(mpl.rcParams) == before


def test_a_missing_file_of_predictions_is_an_error_that_names_it(comparison, tmp_path):
    (comparison / "schnet-0.npz").unlink()
    with pytest.raises(DataError, match=r"schnet-0\.npz"):
        write(comparison, tmp_path)


def test_no_script_can_end_the_element_around_it():
    assert "</script" not in script_in_html(asset("3Dmol-min.js")).lower()
    assert script_in_html("a = '</SCRIPT>'") == r"a = '\x3c/SCRIPT>'"
    assert json.loads(json_in_html({"a": HOSTILE})) == {"a": HOSTILE}
    assert "<" not in json_in_html({"a": HOSTILE})


def test_a_figure_is_the_same_file_each_time():
    def drawn():
        figure, (panel,) = panels(1)
        panel.plot([0.0, 1.0], [1.0, 2.0])
        return svg_file(figure)

    assert drawn() == drawn()
