"""The README is what it should be; what it shows is run by test_documentation.py."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_begins_with_the_two_commands():
    commands = [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()]
    assert commands == ["make demo", "make test"]


def test_the_block_for_other_networks_is_short():
    (block,) = [block for block in blocks("python") if "attach(" in block]
    assert len(block.strip().splitlines()) <= 8


def test_every_page_that_it_names_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert "docs/quickstart.md" in links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing, missing


def test_the_tables_are_those_of_the_stored_results():
    script = Path(__file__).parent.parent / "benchmarks" / "readme.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr or "run: python benchmarks/readme.py"
