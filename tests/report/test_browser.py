import json
import re
import shutil
import subprocess

import ase.io
import pytest
import torch
from ase.build import molecule

from mcgm import build
from mcgm.cli import main
from mcgm.report import report_command

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")


def rendered(page, profile) -> tuple[str, str]:
    """The document after its scripts ran, and what the console said."""
    command = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=8000", page.as_uri()]
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


CLICKS = """<pre id="seen"></pre><script>
(async () => {
  const seen = {};
  const look = () => {
    const canvas = document.querySelector("#viewer canvas");
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0);
    return context.getImageData(0, 0, copy.width, copy.height);
  };
  const keep = (name) => {
    const { data } = look();
    let [drawn, shape, color] = [0, 0, 0];
    for (let k = 0; k < data.length; k += 4) {
      if (data[k + 3] === 0) continue;
      drawn += 1;
      shape = (shape * 31 + k) % 1000003;
      color = (color * 31 + data[k] * 65536 + data[k + 1] * 256 + data[k + 2]) % 1000003;
    }
    const fills = [...document.querySelectorAll("#tree .node")].length;
    seen[name] = { drawn, shape, color, fills, legend: document.getElementById("legend").textContent };
  };
  const buttons = () => [...document.querySelectorAll("#colors button")];
  const press = (name) => buttons().find((one) => one.textContent === name).click();
  const select = (id, value) => {
    const list = document.getElementById(id);
    list.value = value;
    list.dispatchEvent(new Event("change"));
  };
  const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
  await wait(200);
  seen.colors = buttons().map((one) => one.textContent);
  for (const name of seen.colors) { press(name); keep(name); }
  seen.scale = document.getElementById("scale").textContent;
  press("level 1");
  keep("level 1 again");
  press("level 2");
  select("layer", 0);
  keep("layer 1");
  select("layer", 1);
  seen.energies = document.getElementById("energies").textContent;
  seen.clusters = [...document.querySelectorAll("#clusters tbody tr")].map((row) => row.textContent);
  select("structure", 1);
  keep("benzene");
  seen.meta = document.getElementById("meta").textContent;
  // atoms are not asked where they are drawn: point at what is drawn until something answers
  const { data, width, height } = look();
  const holder = document.querySelector("#viewer canvas");
  for (let y = 0; y < height && !seen.hover; y += 8) {
    for (let x = 0; x < width && !seen.hover; x += 8) {
      if (data[4 * (y * width + x) + 3] === 0) continue;
      const box = holder.getBoundingClientRect();
      const [clientX, clientY] = [box.left + x * box.width / width, box.top + y * box.height / height];
      holder.dispatchEvent(new MouseEvent("mousemove", { clientX, clientY, bubbles: true }));
      await wait(600);
      seen.hover = document.getElementById("hover").textContent;
    }
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    """What a page showed when its switches were used, and what the console said."""
    folder = tmp_path_factory.mktemp("explore")
    torch.manual_seed(0)
    options = {"channels": 16, "filters": 16, "radial": 8, "layers": 2}
    potential = build(backbone="schnet", long_range="mcgm_charges", cutoff=3.0, backbone_options=options)
    potential.save(folder / "m.safetensors")
    frames = [molecule("CH3CH2OH"), molecule("C6H6")]
    for atoms, name in zip(frames, ("ethanol", "benzene"), strict=True):
        atoms.info["name"] = name
    ase.io.write(folder / "s.extxyz", frames)
    page = folder / "page.html"
    assert main(["explore", str(folder / "m.safetensors"), str(folder / "s.extxyz"), "-o", str(page)]) == 0
    page.write_text(page.read_text().replace("</body>", CLICKS + "</body>"))
    document, console = rendered(page, folder / "profile")
    assert 'data-view="drawn"' in document, console
    return json.loads(re.search(r'<pre id="seen">(.*?)</pre>', document, re.DOTALL)[1]), console


def test_explore_draws_without_an_error(explored):
    seen, console = explored
    assert not re.search(r"Uncaught|Refused|violates|error", console, re.IGNORECASE), console
    assert seen["colors"] == ["elements", "level 1", "level 2", "level 3", "energy", "charge"]
    assert all(seen[name]["drawn"] > 1000 for name in seen["colors"])
    assert seen["level 1"]["fills"] > 9 + 3


def test_switches_of_explore_change_the_colours_and_nothing_else(explored):
    seen, _ = explored
    assert len({seen[name]["shape"] for name in seen["colors"]}) == 1
    assert len({seen[name]["color"] for name in seen["colors"]}) == len(seen["colors"])
    assert seen["level 1 again"]["color"] == seen["level 1"]["color"]
    assert seen["layer 1"]["shape"] == seen["level 2"]["shape"]
    assert seen["layer 1"]["color"] != seen["level 2"]["color"]
    assert "H: 6 atoms" in seen["level 1"]["legend"]
    assert seen["scale"].count(" e") == 2


def test_explore_shows_the_structure_that_is_selected(explored):
    seen, _ = explored
    assert seen["benzene"]["shape"] != seen["level 2"]["shape"]
    assert "benzene: 12 atoms" in seen["meta"]
    assert "electrostatics" in seen["energies"]
    assert any(row.startswith("level 1, O1") for row in seen["clusters"])


def test_explore_says_what_is_under_the_pointer(explored):
    seen, _ = explored
    assert re.match(r"[CH] \d+ · level 1: [CH] \(1\.00\) · level 2: cluster \d \(0\.\d\d\)", seen["hover"])
    assert seen["hover"].endswith(" e")
