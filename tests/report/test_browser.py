import re
import shutil
import subprocess

import pytest

from mcgm.report import report_command

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")


def rendered(page, profile) -> tuple[str, str]:
    """The document after its scripts ran, and what the console said."""
    command = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=5000", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_the_clusters_are_drawn_without_an_error(report, tmp_path):
    document, console = rendered(report, tmp_path / "profile")
    assert 'data-view="drawn"' in document
    assert "<canvas" in document
    legend = re.search(r'<ul class="legend".*?</ul>', document, re.DOTALL)[0]
    assert "O: 1 atom<" in legend
    assert "H: 2 atoms<" in legend
    assert not re.search(r"Uncaught|Refused|violates|error", console, re.IGNORECASE), console


def test_without_webgl_the_page_says_so(report, tmp_path):
    blind = "<script>HTMLCanvasElement.prototype.getContext = () => null;</script>"
    page = tmp_path / "blind.html"
    page.write_text(report.read_text().replace("<body>", f"<body>{blind}"))
    document, _ = rendered(page, tmp_path / "profile")
    assert 'data-view="no-webgl"' in document
    assert "gives no WebGL" in document
    assert "H: 2 atoms<" in document


def test_a_hostile_molecule_name_is_shown_and_not_run(tmp_path, cell_writer):
    name = "</script><script>document.title='taken'</script>"
    folder = tmp_path / "cells"
    cell_writer(folder, "schnet", 0, 0.2, molecule=name)
    cell_writer(folder, "schnet_mcgm", 0, 0.1, molecule=name)
    report_command(folder, tmp_path / "report.html")
    document, _ = rendered(tmp_path / "report.html", tmp_path / "profile")
    assert "<title>Comparison on sample</title>" in document
    assert "&lt;/script&gt;&lt;script&gt;" in document
