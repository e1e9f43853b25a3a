"""Tables of `docs/speed.md`, from the stored results of the benchmarks `speed_*` and of streaming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcgm.backbones import BACKBONES
from mcgm.defaults import LONG_RANGE

RESULTS = Path(__file__).parent / "results"
TASKS = ("energy + forces", "a training step")


def compiled() -> str:
    """Times and ratios of every backbone, block and setting that was measured; memory where it is known."""
    lines = [
        "| | network | block | ms | compiled | × alone | compiled | MiB | compiled |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    commands, compiling, differences = [], [], []
    for path in sorted(RESULTS.glob("speed_compiled_*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        commands.append(f"`{figures.pop('provenance')['command']}`")
        question = figures.pop("question")
        for backbone, tasks in figures.items():
            for task in TASKS:
                if task not in tasks:
                    continue
                found = tasks[task]
                compiling.append(found["seconds to compile all"])
                differences.append(found["largest difference of forces, relative"])
                lines += [
                    f"| {question} | {backbone}, {task} | {_block_row(block, found)} |"
                    for block in found["compiled, ratio to uncompiled"]
                ]
    notes = (
        "Compiled: ratio to the same network uncompiled; × alone: ratio to the network without a block; medians "
        f"[quartiles] in one run. Compiling the networks of a row took {min(compiling):.0f} to {max(compiling):.0f} s "
        f"together. Forces (float32) differ by at most {max(differences):.0e} of the largest. "
        f"{', '.join(dict.fromkeys(commands))}."
    )
    return "\n".join([*lines, "", notes])


def _block_row(block: str, found: dict[str, Any]) -> str:
    """Time, cost and memory with a block."""
    costs = found["with the block, ratio to the network alone"].get(block)
    cells = ["–" if block == "none" else f"`{block}`", f"{found['milliseconds'][block]:.1f}"]
    cells.append(_quartiles(found["compiled, ratio to uncompiled"][block]))
    cells += ["–", "–"] if costs is None else [_quartiles(costs[which]) for which in ("uncompiled", "compiled")]
    mib = found.get("MiB")
    cells += ["–", "–"] if mib is None else [f"{mib[block]:,.0f}", f"{mib[f'{block}, compiled'] / mib[block]:.2f}"]
    return " | ".join(cells)


def _quartiles(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['quartile_1']:.2f}, {ratio['quartile_3']:.2f}]"


def streaming() -> str:
    """Memory and time of `mcgm predict` over the length of its input."""
    figures = json.loads((RESULTS / "predict_stream.json").read_text(encoding="utf-8"))
    lines = [
        "| Format | Structures | Peak memory, MB | Time, s | Input, MB | Output, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for suffix in ("extxyz", "npz"):
        for name, found in figures[suffix].items():
            if not isinstance(found, dict):
                continue
            count = int(name.split()[0])
            cells = [found[key] for key in ("peak memory, MB", "seconds", "input, MB", "output, MB")]
            lines.append(f"| {suffix} | {count:,} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    notes = f"{figures['question'][0].upper()}{figures['question'][1:]}. `{figures['provenance']['command']}`."
    return "\n".join([*lines, "", notes])


def latency() -> str:
    """A step as ASE sees it, beside other libraries' calculators."""
    lines: list[str] = []
    commands = []
    for path in sorted(RESULTS.glob("speed_latency_*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        commands.append(f"`{figures.pop('provenance')['command']}`")
        question = figures.pop("question")
        for backbone, found in figures.items():
            others = [name for name, cell in found.items() if not cell["times faster"]]
            if not lines:
                heads = " | ".join(f"times {name}" for name in others)
                lines = [f"| | network | calculator | parameters | ms | {heads} |"]
                lines.append("|---|---|---|---:|---:|" + "---:|" * len(others))
            for name, cell in found.items():
                faster = " | ".join(
                    _quartiles(cell["times faster"][other]) if cell["times faster"] else "–" for other in others
                )
                cells = [f"{cell['parameters']:,}", f"{cell['milliseconds']:.1f}", faster]
                lines.append(f"| {question} | {backbone} | {name} | {' | '.join(cells)} |")
    notes = (
        "A frame of a trajectory at 300 K, 0.5 fs apart, float32, means of 20; recorded: with a skin of 1 Å instead of "
        "0.5. Times: how many times faster than the other, median [quartiles] in one run."
    )
    return "\n".join([*lines, "", f"{notes} {', '.join(commands)}."])


def neighbors() -> str:
    """The search beside others."""
    figures = json.loads((RESULTS / "speed_neighbors.json").read_text(encoding="utf-8"))
    lines = ["| | ours, ms | ratio to the other |", "|---|---:|---:|"]
    for name, found in figures.items():
        if isinstance(found, dict) and "ratio" in found:
            lines.append(f"| {name} | {found['milliseconds, ours']:.2f} | {_quartiles(found['ratio'])} |")
    question = figures["question"][0].upper() + figures["question"][1:]
    return "\n".join([*lines, "", f"{question}, median [quartiles]. `{figures['provenance']['command']}`."])


def start() -> str:
    """Seconds until a process can do something."""
    figures = json.loads((RESULTS / "speed_start.json").read_text(encoding="utf-8"))
    rows = {name: value for name, value in figures.items() if isinstance(value, float)}
    lines = ["| | s |", "|---|---:|", *(f"| {name} | {value:.2f} |" for name, value in rows.items())]
    return "\n".join([*lines, "", f"{figures['question'].capitalize()}. `{figures['provenance']['command']}`."])


def training() -> str:
    """Structures per second of training, beside another library."""
    lines, commands = [], []
    for path in sorted(RESULTS.glob("speed_training_*.json"), reverse=True):
        figures = json.loads(path.read_text(encoding="utf-8"))
        commands.append(f"`{figures.pop('provenance')['command']}`")
        question = figures.pop("question")
        for backbone, found in figures.items():
            speeds = found["structures per second"]
            *names, library = speeds
            if not lines:
                heads = " | ".join(f"{name}, structures/s | times faster" for name in names)
                lines = [f"| | {library}, structures/s | {heads} |", "|---|---:|" + "---:|---:|" * len(names)]
            ratios = found[f"times faster than {library}"]
            cells = [f"{speeds[name]:.1f} | {_quartiles(ratios[name])}" for name in names]
            lines.append(f"| {backbone}: {question} | {speeds[library]:.1f} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Median [quartiles] in one run. {', '.join(commands)}."])


def recorded() -> str:
    """Structures per second of training on a GPU, as it is and recorded."""
    lines = [
        "| | network | block | structures/s | recorded | times faster | × alone | recorded | times xnn | recorded |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    commands, differences, sizes = [], [], []
    for path in sorted(RESULTS.glob("speed_recorded_*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        commands.append(f"`{figures.pop('provenance')['command']}`")
        question = figures.pop("question")
        for backbone, found in figures.items():
            differences += found["largest difference of gradients, relative"].values()
            sizes.append(found["sizes"])
            for block, faster in found["recorded, times faster"].items():
                pair = (block, f"{block}, recorded")
                speeds = [f"{found['structures per second'][name]:,.0f}" for name in pair]
                costs = found["with the block, ratio to the network alone"]
                others = found["times faster than xnn"]
                cells = [*speeds, _quartiles(faster)]
                cells += [_quartiles(costs[name]) if name in costs else "–" for name in pair]
                cells += [_quartiles(others[name]) if name in others else "–" for name in pair]
                named = "–" if block == "none" else f"`{block}`"
                lines.append(f"| {question} | {backbone} | {named} | " + " | ".join(cells) + " |")
    notes = (
        "Different batches, in memory; moving them to the GPU and a step of AdamW included; median [quartiles] in one "
        f"run. Gradients (float32) differ by at most {max(differences):.0e} of the largest; batches had "
        f"{max(sizes)} sizes at most. {', '.join(commands)}."
    )
    return "\n".join([*lines, "", notes])


def profiles() -> str:
    """Shares of kinds of operations in a step, at an earlier commit and now."""
    now, before = (
        json.loads((RESULTS / f"profile_paper_{name}.json").read_text(encoding="utf-8")) for name in ("now", "before")
    )
    question, made, earlier = now.pop("question"), now.pop("provenance"), before.pop("provenance")
    kinds: list[str] = []
    lines: list[str] = []
    for backbone, blocks in now.items():
        for block, tasks in blocks.items():
            for task, found in tasks.items():
                old = before[backbone][block][task]
                if not lines:
                    kinds = [kind for kind in found if kind != "operations"]
                    lines = [f"| | {', % | '.join(kinds)}, % | operations |", "|---|" + "---:|" * (len(kinds) + 1)]
                shares = " | ".join(f"{_share(old, kind)} → {_share(found, kind)}" for kind in kinds)
                what = f"{backbone}, `{block}`, {task.removesuffix(', ms')}"
                lines.append(f"| {what} | {shares} | {old['operations']:,.0f} → {found['operations']:,.0f} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{question}: shares of the time, commit {earlier['commit']} → {made['commit']}. `{earlier['command']}`, "
            f"`{made['command']}`.",
        ]
    )


def _share(found: dict[str, float], kind: str) -> str:
    return f"{100 * found.get(kind, 0.0) / sum(value for name, value in found.items() if name != 'operations'):.0f}"


def clustering() -> str:
    """K-means++ beside other libraries, with what it found; on a processor, then on a GPU."""
    lines = [
        "| | ours, ms | drawn, ms | beside | ms | times faster | drawn | inertia, ours to theirs | drawn |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    commands, questions = [], []
    for name in ("clustering", "clustering_cuda"):
        figures = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        commands.append(f"`{figures['provenance']['command']}`")
        questions.append(figures["question"])
        for threads in (key for key in figures if key.startswith("threads ")):
            count = threads.removeprefix("threads ")
            where = "GPU" if name.endswith("cuda") else f"{count} thread{'s' if count != '1' else ''}"
            for case, found in figures[threads].items():
                lines += [f"| {where}, {case} | {row} |" for row in _clustering_rows(found)]
    notes = f"{questions[0]}; GPU:{questions[1].removeprefix(questions[0]).removeprefix(',')}"
    return "\n".join([*lines, "", f"{notes}. Ratios: median [quartiles]. {', '.join(commands)}."])


def _clustering_rows(found: dict[str, Any]) -> list[str]:
    """One for each library."""
    times, inertia = found["milliseconds, median"], found["inertia / scikit-learn's"]
    rows = []
    for library, ratio in found["times faster"].items():
        cells = [f"{times['ours']:.1f}", f"{times['ours, drawn']:.1f}", library, f"{times[library]:.0f}"]
        cells += [_quartiles(ratio), _quartiles(found["times faster, drawn"][library])]
        cells += [f"{inertia[name] / inertia[library]:.3f}" for name in ("ours", "ours, drawn")]
        rows.append(" | ".join(cells))
    return rows


def data() -> str:
    """What reading takes of a training step, and memory for many structures."""
    figures = json.loads((RESULTS / "speed_data.json").read_text(encoding="utf-8"))
    lines = ["| | reading, ms | a step, ms | share of a step |", "|---|---:|---:|---:|"]
    for name, found in figures["batches"].items():
        share = found["reading, share of a step"]
        cells = [
            f"{found['processor milliseconds of reading']:.1f}",
            f"{found['processor milliseconds of a step']:.0f}",
            _quartiles(share),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    new = figures["new file"]
    seconds = "; ".join(f"{name}: {value:.2f} s" for name, value in new["seconds"].items())
    size = f"{new['structures']:,} structures ({new['MB']:.0f} MB, extxyz)"
    notes = [f"{figures['question']}. A new file of {size}: {seconds}."]
    if "many structures" in figures:
        many = figures["many structures"]
        notes.append(
            f"`mcgm train` on a new file of {many['structures']:,} molecules of ten atoms ({many['file, MB']:,} MB, "
            f"npz), conversion and one epoch: {many['seconds']:,} s, at most {many['peak memory, MB']:,} MB of memory, "
            "mapped pages of the file included."
        )
    return "\n".join([*lines, "", " ".join(notes) + f" `{figures['provenance']['command']}`."])


def memory() -> str:
    """A large system beside published programs."""
    figures = json.loads((RESULTS / "memory.json").read_text(encoding="utf-8"))
    found, published = figures["MiB"], figures["published, MiB"]
    sizes = list(found["none"])
    heads = " | ".join(f"{int(atoms):,} atoms, MiB | to local" for atoms in sizes)
    lines = [
        f"| block | {heads} | published, {int(sizes[-1]):,} atoms, MiB |",
        "|---|" + "---:|---:|" * len(sizes) + "---:|",
    ]
    for block, row in found.items():
        cells = []
        for atoms in sizes:
            mib = row.get(atoms)
            cells += ["–", "–"] if mib is None else [f"{mib:,.0f}", f"{mib / found['none'][atoms]:.3f}"]
        other = published.get(block, {}).get(sizes[-1])
        lines.append(f"| `{block}` | " + " | ".join(cells) + f" | {'–' if other is None else f'{other:,}'} |")
    question = figures["question"][0].upper() + figures["question"][1:]
    return "\n".join([*lines, "", f"{question}. `{figures['provenance']['command']}`."])


def memory_batch() -> str:
    """A batch of molecules, by backbone and task."""
    figures = json.loads((RESULTS / "memory_batch.json").read_text(encoding="utf-8"))
    measured = [backbone for backbone in BACKBONES if backbone in figures]
    blocks = list(figures[measured[0]][TASKS[0]]["ratio to local"])
    lines = [
        "| | molecules in the batch | alone, MiB | " + " | ".join(f"`{block}`" for block in blocks) + " |",
        "|---|---:|---:|" + "---:|" * len(blocks),
    ]
    commands = []
    for backbone in measured:
        found = figures[backbone]
        commands.append(found["provenance"]["command"])
        for task in TASKS:
            ratios = " | ".join(_memory_ratio(found[task]["ratio to local"][block]) for block in blocks)
            alone = found[task]["MiB"]["none"]
            lines.append(f"| {backbone}, {task} | {found['molecules']} | {alone:,.0f} | {ratios} |")
    question = figures["question"][0].upper() + figures["question"][1:]
    ran = ", ".join(f"`{command}`" for command in dict.fromkeys(commands))
    return "\n".join(
        [*lines, "", f"{question}. Ratio to the same backbone alone, median of two processes or more. {ran}."]
    )


def _memory_ratio(ratio: float | dict[str, float]) -> str:
    """Median of several processes, with quartiles where they differ from it, or the one that was measured."""
    if isinstance(ratio, float):
        return f"{ratio:.3f}"
    if ratio["quartile_3"] - ratio["quartile_1"] < 2e-3:
        return f"{ratio['median']:.3f}"
    return f"{ratio['median']:.3f} [{ratio['quartile_1']:.3f}, {ratio['quartile_3']:.3f}]"


def weak_scaling() -> str:
    """Two ranks beside one, and beside two trainings."""
    figures = json.loads((RESULTS / "weak_scaling.json").read_text(encoding="utf-8"))
    lines = ["| | ms per step |", "|---|---|"]
    for name, values in figures["milliseconds per step"].items():
        lines.append(f"| {name} | {', '.join(f'{value:.0f}' for value in values)} |")
    shares = "; ".join(f"{name}: {value:.2f}" for name, value in figures["efficiency"].items())
    notes = f"{figures['question']}. Efficiency, {shares}. `{figures['provenance']['command']}`."
    return "\n".join([*lines, "", notes])


SETS = {
    "OE62, 250 epochs": (50_000, 41, 250),
    "AQM, 200 epochs": (50_816, 50, 200),
    "100 million structures of 50 atoms, one epoch": (100_000_000, 50, 1),
}
"""Training structures, atoms of each, and epochs."""

PROCESSORS = (1, 8, 64)
BANDWIDTH_GB_S = 10.0
"""Of a gradient's sum among processors of several machines: cautious, to be replaced by one's own."""


def plan() -> str:
    """Hours of a training on GPUs, from measured steps of 2,560 atoms each and an assumed network."""
    record = json.loads((RESULTS / "overhead_paper_cuda.json").read_text(encoding="utf-8"))
    alone = json.loads((RESULTS / "overhead_paper_cuda_recorded.json").read_text(encoding="utf-8"))
    names = [name for name in record if name not in ("question", "provenance")]
    heads = " | ".join(f"{count} GPU{'s' if count > 1 else ''}, h" for count in PROCESSORS)
    lines = [
        f"| | step, ms | recorded, ms | GiB | gradient, MB | {heads} |",
        "|---|---:|---:|---:|---:|" + "---:|" * len(PROCESSORS),
    ]
    for title, (structures, atoms, epochs) in SETS.items():
        for name in names:
            found = record[name]
            step, replayed = _step(found), f"{_step(alone[name]):.0f}" if name in alone else "–"
            gib = found["MiB of a training step, local"] / 1024
            gib *= found["memory of a training step, ratio to local"][LONG_RANGE]
            gradient = 4e-6 * found["parameters"][LONG_RANGE]
            hours = []
            for count in PROCESSORS:
                waits = 0.0 if count == 1 else 2 * gradient / BANDWIDTH_GB_S  # ms: MB over GB/s, there and back
                steps = structures * atoms * epochs / found["atoms"] / count
                hours.append(f"{steps * (step + waits) / 3.6e6:,.1f}")
            lines.append(
                f"| {title}: {name} | {step:.0f} | {replayed} | {gib:.1f} | {gradient:.0f} | "
                + " | ".join(hours)
                + " |"
            )
    notes = (
        f"Each network with the default block, `{LONG_RANGE}`. Computed from training steps with forces, float32, "
        f"as they are, on one GPU ({record[names[0]]['molecules']} {record['question']}; "
        f"`{record['provenance']['command']}`), and from the time to add up gradients at {BANDWIDTH_GB_S:g} GB/s; not "
        "measured on several GPUs. Recorded (`training.cuda_graphs`): kernels alone; hours shrink likewise."
    )
    return "\n".join([*lines, "", notes])


def _step(found: dict[str, Any]) -> float:
    """Milliseconds of a training step with the default block."""
    alone: float = found["milliseconds of a training step, local"]
    ratio: float = found["training step, ratio to local"][LONG_RANGE]["median"]
    return alone * ratio
