"""Hooks of MkDocs for the pages in docs/ (see mkdocs.yml): what Markdown alone cannot do.

- Figures and other files of the repository may be linked as `../benchmarks/results/x.svg`, as they are on the web.
- `<!-- file: PATH -->` becomes the file, `<!-- commands -->` every command with its help text,
  `<!-- modules: PACKAGE -->` the API of its modules, `<!-- promises -->` what blocks say that they do not promise.
- Formulas become MathML, which browsers draw by themselves: no script, no network.
- Pages that others write may be missing; pages that are nowhere in the navigation go to its end.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import io
import os
import posixpath
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from mcgm.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FIGURES = ROOT / "benchmarks" / "results"

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([\w./+-]+)(#[^)\s]*)?\)")
FILE = re.compile(r"^( *)<!-- file: ([\w./-]+) -->", re.MULTILINE)
COMMANDS_HERE = "<!-- commands -->"
PROMISES_HERE = "<!-- promises -->"
MODULES = re.compile(r"<!-- modules: ([\w.]+) -->")
FORMULA = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.*?)\\\)</span>|<div class="arithmatex">\\\[(?P<block>.*?)\\\]</div>',
    re.DOTALL,
)


VARIANT = re.compile(r'<(m[in]) mathvariant="(bold|bold-italic|double-struck)">([^<]+)</\1>')


def on_config(config: Any) -> Any:
    """Leave out awaited pages that are not there, and add those that nobody listed."""
    awaited = set(config.extra["awaited"])
    config.nav = _without(config.nav, {name for name in awaited if not (DOCS / name).exists()})
    others = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - set(_pages(config.nav))
    if others:
        config.nav.append({"More": sorted(others)})
    return config


def _without(items: list[Any], missing: set[str]) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if isinstance(item, dict):
            ((title, inside),) = item.items()
            if isinstance(inside, list):
                kept.append({title: _without(inside, missing)})
            elif inside not in missing:
                kept.append(item)
        elif item not in missing:
            kept.append(item)
    return kept


def _pages(items: list[Any]) -> Iterator[str]:
    for item in items:
        inside = next(iter(item.values())) if isinstance(item, dict) else item
        yield from [inside] if isinstance(inside, str) else _pages(inside)


def on_files(files: Files, config: Any) -> Files:
    """The figures that benchmarks draw are part of the site."""
    for figure in sorted(FIGURES.glob("*.svg")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ and to pages to come, help texts, and lists of modules."""
    source, awaited = page.file.src_uri, config.extra["awaited"]
    text = LINK.sub(lambda found: inside(source, awaited, found), markdown)
    text = FILE.sub(lambda found: textwrap.indent(file(found[2]), found[1]), text)
    text = MODULES.sub(lambda found: modules(found[1]), text)
    for mark, made in ((COMMANDS_HERE, commands), (PROMISES_HERE, promises)):
        text = text.replace(mark, made()) if mark in text else text
    return text


def inside(page: str, awaited: Sequence[str], link: re.Match[str]) -> str:
    """A link as the site can follow it: figures are copied; of other files, and of pages to come, the name is told."""
    mark, text, target, _ = link.groups()
    up = posixpath.dirname(page) or "."
    path = (DOCS / page).parent.joinpath(target).resolve()
    if path.is_relative_to(DOCS):
        missing = not path.exists() and path.relative_to(DOCS).as_posix() in awaited
        return text if missing else link[0]
    if not path.exists():
        return link[0]
    if path.parent == FIGURES and path.suffix == ".svg":
        return f"{mark}[{text}]({posixpath.relpath(f'figures/{path.name}', up)})"
    place = path.relative_to(ROOT).as_posix()
    if place == "CHANGELOG.md":
        return f"[{text}]({posixpath.relpath('changelog.md', up)})"
    return text if place in text else f"{text} (`{place}`)"


def file(place: str) -> str:
    """A file of the repository: programs as code, anything else as it is."""
    text = (ROOT / place).read_text(encoding="utf-8").rstrip()
    return f"```python\n{text}\n```" if place.endswith(".py") else text


def modules(package: str) -> str:
    """Every module of a package that says what is public in it, but for those that another mark of the API shows."""
    folder = ROOT.joinpath("src", *package.split("."))
    names = [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    options = "    options: {heading_level: 3, show_root_full_path: true}"
    elsewhere = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("api/*.md"))
    return "\n".join(f"::: {name}\n{options}" for name in names if f"::: {name}" not in elsewhere)


def promises() -> str:
    """What every block says of itself that it does not promise; blocks that promise everything are not named."""
    from mcgm.long_range import BLOCKS

    lines = ["| `long_range` | not promised | for |", "|---|---|---|"]
    for name, make in BLOCKS.items():
        reasons: dict[str, list[str]] = {}
        for promise, why in make().not_promised.items():
            reasons.setdefault(why, []).append(promise)
        for why, left_out in reasons.items():
            lines.append(f"| `{name}` | {', '.join(left_out)} | {why} |")
    return "\n".join(lines)


def commands() -> str:
    """A section for each command."""
    sections = [
        f"## mcgm {name}\n\n{summary[0].upper()}{summary[1:]}.\n\n```text\n{help_of(name)}\n```"
        for name, (_, summary) in COMMANDS.items()
    ]
    return "\n\n".join(sections)


def help_of(command: str) -> str:
    """What `mcgm NAME --help` prints on a terminal of 96 columns."""
    output = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "96"
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            importlib.import_module(COMMANDS[command][0]).run(["--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return output.getvalue().strip()


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """MathML instead of TeX; cells that say yes or no can be coloured."""
    return re.sub(r"<td>(yes|no)(?=<)", r'<td class="\1">\1', FORMULA.sub(_mathml, content))


def _mathml(found: re.Match[str]) -> str:
    if found["inline"] is not None:
        return drawn(found["inline"], "inline")
    formula, _, number = found["block"].partition(r"\tag{")
    label = f'<span class="number">({number.strip().removesuffix("}")})</span>' if number else ""
    return f'<div class="formula">{drawn(formula, "block")}{label}</div>'


def drawn(formula: str, display: str) -> str:
    """MathML with letters of Unicode in the place of the variants that browsers no longer know."""
    text = convert(html.unescape(formula.strip()), display=display)
    return VARIANT.sub(_letters, text)


def _letters(found: re.Match[str]) -> str:
    tag, variant, text = found.groups()
    return f"<{tag}>{''.join(letter(variant, each) for each in html.unescape(text))}</{tag}>"


def letter(variant: str, character: str) -> str:
    """The letter, or the digit, of Unicode's mathematical alphabets."""
    words = variant.upper().replace("BOLD-", "BOLD ")
    name = unicodedata.name(character).removeprefix("LATIN ").removeprefix("GREEK ")
    for spelled in (name, name.replace(" LETTER", "")):
        for full in (f"MATHEMATICAL {words} {spelled}", f"{words} {spelled}"):
            with contextlib.suppress(KeyError):
                return unicodedata.lookup(full)
    return character
