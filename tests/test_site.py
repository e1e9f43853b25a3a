"""The site builds without a warning, needs no network, and says what the code says."""

from __future__ import annotations

import html
import importlib
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import urllib.parse
import zlib
from pathlib import Path

import pytest

from mcgm.cli import COMMANDS

pytest.importorskip("mkdocs", reason="needs mkdocs: pip install 'mcgm[docs]'")

ROOT = Path(__file__).parent.parent
PUBLIC = ("mcgm", "mcgm.long_range", "mcgm.backbones", "mcgm.data", "mcgm.testing")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make docs` makes. Never --quiet: warnings are then not counted as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path."""
    found = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(found) > 15
    return found


def attributes(page, name):
    return [html.unescape(value) for value in re.findall(rf'\s{name}="([^"]*)"', page)]


def test_nothing_is_loaded_from_the_network(site, pages):
    for name, page in pages.items():
        loaded = [*attributes(page, "src"), *re.findall(r"<link[^>]*href=\"([^\"]*)\"", page)]
        away = [url for url in loaded if re.match(r"(https?:)?//", url)]
        assert not away, f"{name}: {away}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_link_inside_leads_somewhere(site, pages):
    anchors = {name: {*attributes(page, "id"), *attributes(page, "name"), ""} for name, page in pages.items()}
    for name, page in pages.items():
        for link in {*attributes(page, "href"), *attributes(page, "src")}:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            place = posixpath.join(posixpath.dirname(name), urllib.parse.unquote(parts.path))
            target = posixpath.normpath(place) if parts.path else name
            assert (site / target).exists(), f"{name}: {link}"
            if target in anchors:
                assert urllib.parse.unquote(parts.fragment) in anchors[target], f"{name}: {link}"


def test_public_names_have_an_entry(site):
    stored = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    known = {line.split(" ")[0] for line in zlib.decompress(stored).decode().splitlines()}
    for module in PUBLIC:
        for name in importlib.import_module(module).__all__:
            # a function may have the name of its module
            assert known & {f"{module}.{name}", f"{module}.{name}.{name}"}, f"{module}.{name} is in no page of docs/api"


def test_every_command_has_its_help(pages):
    text = html.unescape(re.sub(r"<[^>]+>", "", pages["commands.html"]))
    for name in COMMANDS:
        assert f"usage: mcgm {name} " in text, name
    assert "--friction PER_FS" in text


def test_formulas_are_mathml(pages):
    assert pages["theory.html"].count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"') == 25
    for name, page in pages.items():
        assert "arithmatex" not in page, name
        assert r"\frac" not in page, name


def test_tests_of_the_theory_exist():
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|.*`([\w/.]+)::(\w+)` \|$", text, re.MULTILINE)
    for _, file, name in rows:
        path = next(path for path in (ROOT / "tests" / file, ROOT / file) if path.exists())
        assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file}: {name}"
    numbered = {number for numbers, _, _ in rows for number in numbers.split(", ")}
    assert numbered == set(re.findall(r"\\tag\{(\d+)\}", text))


SEARCH = """<pre id="seen"></pre><script>
(async () => {
  const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
  const seen = {};
  const sizes = (name) => [...document.querySelectorAll(name)].map((one) => one.getBoundingClientRect().height);
  seen.formulas = sizes("math[display=block]");
  seen.fractions = sizes("mfrac");
  const results = () => [...document.querySelectorAll(".md-search-result__link")];
  for (let k = 0; k < 40 && results().length === 0; k++) await wait(250);
  seen.found = results().map((one) => one.getAttribute("href"));
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
def test_formulas_are_drawn_and_the_search_works_from_disk(site, pages, tmp_path):
    page = site / "looked_at.html"
    page.write_text(pages["theory.html"].replace("</body>", SEARCH + "</body>"), encoding="utf-8")
    command = [
        BROWSER,
        *OPTIONS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"{page.as_uri()}?q=thermostat",
    ]
    document = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', document, re.DOTALL)[1]))
    assert min(seen["formulas"]) > 15
    assert min(seen["fractions"]) > 15
    assert any("commands.html" in link for link in seen["found"]), seen["found"]
