"""Write the tables of README and docs from the files in `benchmarks/results`, and from nothing else.

python benchmarks/readme.py [--check] [--store runs/sample --store runs/rivals-conformers_xtb]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path

import conservation
import cumulenes
import electrostatics_table
import numpy as np
import reach
import scorecard
import speed_tables
import suite_across
import suite_figures
import suite_results
import yaml

from mcgm.files import replacing
from mcgm.report.result import read_results
from mcgm.report.summary import plain, sentences, signed, summarize
from mcgm.report.table import markdown_table
from mcgm.suites import SUITES

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PRECISION = "SchNet + MCGM on the bundled sample, trained in two precisions"
PUBLISHED_IMPROVEMENT = 26.2
"""Per cent, mean over four backbones on OE62 (arXiv:2509.22028)."""


def comparison(name: str, title: str, *, timed: bool = True) -> str:
    """The table of a finished `mcgm compare`, with what its figures are; times, where its cells ran side by side."""
    order = list(yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))["variants"])
    results = sorted(read_results(RESULTS / name), key=lambda result: (order.index(result.variant), result.seed))
    rows = summarize(results)
    if not timed:
        rows = [dataclasses.replace(row, seconds_per_epoch=None, inference=None) for row in rows]
    first = results[0]
    command = f"`{first.command}`, commit {first.commit}, {first.machine['cpu']}"
    return f"**{title}**\n\n{markdown_table(rows).rstrip()} {command}."


def cost() -> str:
    """Overheads on a CPU, by backbone and size."""
    blocks = ("mcgm", "mcgm_oriented", "mcgm_paper", "element_mean", "global_mean")
    lines = [
        "| | molecules in the batch | alone | " + " | ".join(f"`{block}`" for block in blocks) + " |",
        "|---|---:|---:|" + "---|" * len(blocks),
    ]
    commands, question = [], ""
    for size in ("small", "paper", "paper_32"):
        record = json.loads((RESULTS / f"overhead_{size}.json").read_text(encoding="utf-8"))
        question = record.pop("question")
        shared = record.pop("provenance")
        for backbone, figures in record.items():
            commands.append(f"`{figures.get('provenance', shared)['command']}`")
            for what in ("energy + forces", "training step"):
                ratios = figures[f"{what}, ratio to local"]
                article = "a " if what == "training step" else ""
                alone = f"{figures[f'milliseconds of {article}{what}, local']:,.0f} ms"
                cells = (_quartiles(ratios[block]) if block in ratios else "" for block in blocks)
                count = figures.get("molecules", 64)
                width = size.partition("_")[0]
                lines.append(f"| {backbone}, {width}, {what} | {count} | {alone} | " + " | ".join(cells) + " |")
    counted = json.loads((RESULTS / "arithmetic.json").read_text(encoding="utf-8"))
    commands.append(f"`{counted.pop('provenance')['command']}`")
    count = counted.pop("question").partition("molecules of")[0].split()[-1]
    for backbone, figures in counted.items():
        cells = (f"{figures['ratio to local'][block]:.3f}" for block in blocks)
        alone = f"{figures['operations, local'] / 1e9:,.0f} · 10⁹"
        lines.append(f"| {backbone}, paper, operations of energy + forces | {count} | {alone} | {' | '.join(cells)} |")
    what = question.partition(", size")[0].partition("molecules of")[2]
    notes = (
        f"Molecules of{what}. Operations: those of matrix products, counted. Ratio to the same backbone alone, median "
        "[quartiles] in one run."
    )
    return "\n".join([*lines, "", f"{notes} {', '.join(dict.fromkeys(commands))}."])


def cost_mixing() -> str:
    """What layers on every atom cost, and RANGE at its full width, beside the default."""
    record = json.loads((RESULTS / "overhead_mixing.json").read_text(encoding="utf-8"))
    blocks = ("mcgm", "mcgm_mixing", "orientations", "mcgm_oriented", "range")
    lines = ["| | " + " | ".join(f"`{block}`" for block in blocks) + " |", "|---|" + "---|" * len(blocks)]
    commands = []
    for backbone, figures in record.items():
        if backbone in ("question", "provenance"):
            continue
        commands.append(f"`{figures['provenance']['command']}`")
        for what in ("energy + forces", "training step"):
            ratios = figures[f"{what}, ratio to local"]
            lines.append(f"| {backbone}, {what} | " + " | ".join(_quartiles(ratios[block]) for block in blocks) + " |")
    source = f"{record['question'][0].upper()}{record['question'][1:]}, ratio to the same backbone alone"
    return "\n".join([*lines, "", f"{source}, median [quartiles] in one run. {', '.join(dict.fromkeys(commands))}."])


def cost_gpu(name: str = "overhead_paper_cuda") -> str:
    """Overheads in time, and memory where it was measured, on a GPU, all backbones."""
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    first = next(figures for key, figures in record.items() if key not in ("question", "provenance"))
    blocks = tuple(first["training step, ratio to local"])
    commands = []
    lines = ["| | alone | " + " | ".join(f"`{block}`" for block in blocks) + " |", "|---|---:|" + "---:|" * len(blocks)]
    for backbone, figures in record.items():
        if backbone in ("question", "provenance"):
            continue
        commands.append(f"`{figures.get('provenance', record['provenance'])['command']}`")
        for what in ("energy + forces", "training step"):
            article = "a " if what == "training step" else ""
            ratios = (_quartiles(figures[f"{what}, ratio to local"][block]) for block in blocks)
            alone = f"{figures[f'milliseconds of {article}{what}, local']:.1f} ms"
            lines.append(f"| {backbone}, {what} | {alone} | " + " | ".join(ratios) + " |")
        count = figures["molecules"]
        if "MiB of a training step, local" not in figures:
            continue
        memory = (f"{figures['memory of a training step, ratio to local'][block]:.3f}" for block in blocks)
        alone = f"{figures['MiB of a training step, local'] / 1024:.1f} GiB"
        lines.append(f"| {backbone}, memory of a training step | {alone} | " + " | ".join(memory) + " |")
    source = f"{count} {record['question']}. Ratio to the same backbone alone, median [quartiles] in one run"
    return "\n".join([*lines, "", f"{source}. {', '.join(dict.fromkeys(commands))}."])


def backbones() -> str:
    """The five backbones without and with MCGM, the mean change over them, and the two ways into those on edges."""
    title = "800 conformers of drug-like molecules, five backbones, small size, cutoff 4 Å"
    table = comparison("backbones", title, timed=False)
    results = read_results(RESULTS / "backbones")
    means = []
    for ending, with_what in (("-mcgm", "`mcgm`"), ("-oriented", "`mcgm_oriented`, the default")):
        added = [row for row in summarize(results) if row.variant.endswith(ending)]
        energy, force = (
            np.mean([getattr(row, f"{what}_change").mean for row in added]) for what in ("energy", "force")
        )
        means.append(f"with {with_what}: energy {signed(energy)} %, force {signed(force)} %")
    streams = [
        dataclasses.replace(r, reference=r.variant.removesuffix("-stream")) for r in results if "stream" in r.variant
    ]
    alone = [dataclasses.replace(r, reference=None) for r in results if r.variant in {s.reference for s in streams}]
    ways = " ".join(plain(sentence) for sentence in sentences(summarize([*alone, *streams])))
    return (
        f"{table}\n\nMean change over {len(added)} backbones {'; '.join(means)}. The paper has "
        f"−{PUBLISHED_IMPROVEMENT} % in energy for four on OE62."
        f"\n\n{ways}"
    )


def clipping() -> str:
    """The same comparison with gradients clipped at 10, as far as it was run, beside the one with 100."""
    kept = {clip: read_results(RESULTS / name) for clip, name in ((10, "backbones_clip10"), (100, "backbones"))}
    rows = {clip: {row.variant: row for row in summarize(results)} for clip, results in kept.items()}
    lines = [
        "| Variant | Energy, clip 10: meV | clip 100 | Force, clip 10: meV/Å | clip 100 | Seeds, clip 10 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for variant, row in rows[100].items():
        before = rows[10].get(variant)
        if before is None:
            continue
        energies = (f"{each.energy.mean:.0f}" for each in (before, row))
        forces = (f"{each.force.mean:.1f}" for each in (before, row) if each.force is not None)
        seeds = sum(result.variant == variant for result in kept[10])
        lines.append(f"| {row.label} | {' | '.join(energies)} | {' | '.join(forces)} | {seeds} |")
    return "\n".join(lines)


def dissociation() -> str:
    """Largest steps of the energy while a bond breaks."""
    figures = json.loads((RESULTS / "dissociation.json").read_text(encoding="utf-8"))
    lines = ["| scope | largest step, eV | at, Å | median, eV |", "|---|---:|---:|---:|"]
    for scope in ("system", "molecule, bonds cut", "molecule, bonds fade"):
        row = figures[scope]
        lines.append(f"| {scope} | {row['largest step, eV']:.1e} | {row['at, Å']:.3f} | {row['median, eV']:.1e} |")
    return "\n".join([*lines, "", f"{figures['question']}. `{figures['provenance']['command']}`."])


def supercells() -> str:
    """Largest difference in energy per atom between crystals and their supercells, by block."""
    figures = json.loads((RESULTS / "supercells.json").read_text(encoding="utf-8"))
    rows = {name: row for name, row in figures.items() if name not in ("question", "provenance")}
    crystals = list(next(iter(rows.values())))
    lines = ["| block | " + " | ".join(crystals) + " |", "|---|" + "---:|" * len(crystals)]
    for name, row in rows.items():
        cells = (row[crystal] for crystal in crystals)
        texts = ("refused" if isinstance(cell, str) else f"{cell['eV/atom']:.0e}" for cell in cells)
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", f"{figures['question']}, eV/atom. `{figures['provenance']['command']}`."])


SHOWN = {"chain": ("carbon chain", 10_000), "water": ("water", 6_591)}
SHOWN_GPU = {"chain": ("carbon chain", 30_000), "water": ("water", 20_577)}
"""Systems of the scaling benchmark, and the number of atoms at which blocks are compared."""


def scaling(name: str, shown: dict[str, tuple[str, int]]) -> str:
    """Time and memory of every block at one size, and how they grow."""
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    heads = [
        f"{title}, {atoms:,} atoms: ms | × local | MiB | time ~ Nᵃ | memory ~ Nᵇ | most atoms"
        for title, atoms in shown.values()
    ]
    lines = ["| Block | " + " | ".join(heads) + " |", "|---|" + "---:|" * 6 * len(heads)]
    for block in record["chain"]:
        cells = []
        for system, (_, atoms) in shown.items():
            one = record[system][block]
            if atoms in one["atoms"]:
                place = one["atoms"].index(atoms)
                cells += [
                    f"{1e3 * one['seconds'][place]:.0f}",
                    f"{one['times local'][place]:.1f}",
                    f"{one['MiB'][place]:,.0f}",
                ]
            else:
                cells += ["–", "–", "–"]
            powers = (one[f"exponent of {what}"] for what in ("seconds", "MiB"))
            cells += ["–" if power is None else f"{power:.2f}" for power in powers]
            cells.append(f"{max(one['atoms']):,}")
        lines.append(f"| `{block}` | " + " | ".join(cells) + " |")
    question, sources = record["question"], [*record.get("earlier", []), record["provenance"]]
    commands = "; ".join(f"`{source['command']}`, commit {source['commit']}" for source in sources)
    return "\n".join([*lines, "", f"{question[0].upper()}{question[1:]}. {commands}."])


LIBRARIES = {"torch_geometric": "PyTorch Geometric", "xnn": "xnn"}


def speed() -> str:
    """Each backbone beside other libraries' implementations of it, in every size that has been timed."""
    sizes = {size: RESULTS / f"backbone_speed_{size}.json" for size in ("small", "paper")}
    stored = {size: json.loads(path.read_text(encoding="utf-8")) for size, path in sizes.items()}
    questions = "; ".join(record["question"] for record in stored.values())
    lines = [
        f"**Speed** (how many times faster than another library's network of the same size: median [quartiles] in "
        f"one run; {questions})",
        "",
        "| Backbone | Size | Beside | Energy + forces | Training step |",
        "|---|---|---|---|---|",
    ]
    for backbone in (name for name in stored["small"] if name not in ("question", "provenance")):
        for size, record in stored.items():
            energy, step = (
                record[backbone][kind]["times faster than"] for kind in ("energy + forces", "training step")
            )
            for library in energy:
                ratios = f"{_quartiles(energy[library])} | {_quartiles(step[library])}"
                lines.append(f"| {backbone} | {size} | {LIBRARIES[library]} | {ratios} |")
    commands = " and ".join(f"`{record['provenance']['command']}`" for record in stored.values())
    notes = (
        "Others' networks get our neighbour lists, so that no search is timed, and PyTorch Geometric's DimeNet++ its "
        "triplets. xnn's GemNet has Bessel functions where our size `paper` has Gaussians, which are cheaper: its "
        f"ratio is not all implementation. {commands}."
    )
    return "\n".join([*lines, "", notes])


def _quartiles(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['quartile_1']:.2f}, {ratio['quartile_3']:.2f}]"


def store(comparison: Path) -> None:
    """Keep the results of a finished comparison under its name; its predictions are too large for that.

    Errors by size, which are of predictions, stay what they were for variants whose predictions are gone.
    """
    target = RESULTS / comparison.name
    target.mkdir(parents=True, exist_ok=True)
    results = read_results(comparison / "cells")
    for result in results:
        result.save(target / f"{result.variant}-seed{result.seed}.json")
    if sizes := suite_figures.by_size(comparison, results):
        kept = suite_figures.load_sizes(target)
        if kept.get("atoms") == sizes["atoms"]:
            sizes["energy_mae_mev"] = dict(sorted((kept["energy_mae_mev"] | sizes["energy_mae_mev"]).items()))
        with replacing(target / "by_size.json") as path:
            path.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


def filled(text: str) -> str:
    """The document with every table between its marks written anew."""
    tables = {
        "sample": lambda: comparison("sample", "Demo: bundled sample, `make demo`"),
        "water_rpbe_d3": lambda: comparison("water_rpbe_d3", "Liquid water, 38 frames of 192 atoms to train on"),
        "crystals": lambda: comparison("crystals", "240 strained crystals of eight kinds to train on"),
        # its steps were timed in float32 both times
        "precision": lambda: comparison("precision", PRECISION, timed=False),
        "cost": cost,
        "cost_mixing": cost_mixing,
        "speed": speed,
        "backbones": backbones,
        "clipping": clipping,
        "dissociation": dissociation,
        "scaling": lambda: scaling("blocks_scaling", SHOWN),
        "scaling_gpu": lambda: scaling("blocks_scaling_cuda", SHOWN_GPU),
        "cost_gpu": cost_gpu,
        "cost_gpu_recorded": lambda: cost_gpu("overhead_paper_cuda_recorded"),
        "electrostatics": lambda: electrostatics_table.table(RESULTS / "electrostatics"),
        "compiled": speed_tables.compiled,
        "streaming": speed_tables.streaming,
        "latency": speed_tables.latency,
        "recorded": speed_tables.recorded,
        "neighbors": speed_tables.neighbors,
        "start": speed_tables.start,
        "training": speed_tables.training,
        "profiles": speed_tables.profiles,
        "clustering": speed_tables.clustering,
        "data": speed_tables.data,
        "memory": speed_tables.memory,
        "memory_batch": speed_tables.memory_batch,
        "weak_scaling": speed_tables.weak_scaling,
        "plan": speed_tables.plan,
        "supercells": supercells,
        "conservation": conservation.table,
        "suites": suite_results.sections,
        "across": suite_across.table,
        "scorecard": scorecard.table,
        "reach": reach.table,
        "cumulenes": cumulenes.table,
    } | {f"step_times_{suite}": lambda suite=suite: suite_results.step_times(suite) for suite in SUITES}
    for name, table in tables.items():
        if f"<!-- table:{name} -->" not in text:
            continue
        mark = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = table() + "\n"
        text = mark.sub(lambda found, body=body: found[1] + body + found[2], text)
    return text


def main() -> int:
    """Write, or with --check only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a document differs")
    parser.add_argument("--store", action="append", default=[], type=Path, help="a finished comparison to keep first")
    options = parser.parse_args()
    check = options.check
    for folder in options.store:
        store(folder)
    if not check:
        suite_results.draw()
        suite_results.draw_stability()
        suite_across.draw()
        scorecard.draw()
    same = True
    for document in DOCUMENTS:
        old = document.read_text(encoding="utf-8")
        new = filled(old)
        same &= new == old
        if not check and new != old:
            with replacing(document) as path:
                path.write_text(new, encoding="utf-8")
    return int(check and not same)


if __name__ == "__main__":
    sys.exit(main())
