"""Tables of `docs/speed.md`, from the stored results of the benchmarks `speed_*` and of streaming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TASKS = ("energy + forces", "a training step")


def compiled() -> str:
    """Times and ratios of every backbone and setting that was measured; memory where it is known."""
    lines = [
        "| | | alone, ms | compiled | with MCGM, ms | compiled | MCGM costs | compiled |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
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
                compiling.append(found["seconds to compile both"])
                differences.append(found["largest difference of forces, relative"])
                lines.append(_row(question, f"{backbone}, {task}", found))
                if "MiB" in found:
                    lines.append(_memory(question, f"{backbone}, {task}, memory", found["MiB"]))
    notes = (
        "Compiled: ratio to the same network uncompiled; MCGM costs: ratio to the network alone; medians [quartiles] "
        f"in one run. Compiling a network without and with MCGM took {min(compiling):.0f} to {max(compiling):.0f} s. "
        f"Forces (float32) differ by at most {max(differences):.0e} of the largest. "
        f"{', '.join(dict.fromkeys(commands))}."
    )
    return "\n".join([*lines, "", notes])


def _row(question: str, what: str, found: dict[str, Any]) -> str:
    times, ratios = found["milliseconds"], found["compiled, ratio to uncompiled"]
    costs = found["MCGM, ratio to the network alone"]
    cells = [f"{times['none']:.1f}", _quartiles(ratios["none"]), f"{times['mcgm']:.1f}", _quartiles(ratios["mcgm"])]
    cells += [_quartiles(costs[which]) for which in ("uncompiled", "compiled")]
    return f"| {question} | {what} | " + " | ".join(cells) + " |"


def _memory(question: str, what: str, mib: dict[str, float]) -> str:
    shares = {block: mib[f"{block}, compiled"] / mib[block] for block in ("none", "mcgm")}
    costs = mib["mcgm"] / mib["none"], mib["mcgm, compiled"] / mib["none, compiled"]
    cells = [f"{mib['none']:,.0f} MiB", f"{shares['none']:.2f}", f"{mib['mcgm']:,.0f} MiB", f"{shares['mcgm']:.2f}"]
    return f"| {question} | {what} | " + " | ".join([*cells, *(f"{cost:.2f}" for cost in costs)]) + " |"


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
    """A step as ASE sees it, beside another library's calculator."""
    lines, commands = [], []
    for path in sorted(RESULTS.glob("speed_latency_*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        commands.append(f"`{figures.pop('provenance')['command']}`")
        question = figures.pop("question")
        for backbone, found in figures.items():
            times = found["milliseconds"]
            library, *names = times
            if not lines:
                lines = [f"| | {library}, ms | " + " | ".join(f"{name}, ms | times faster" for name in names) + " |"]
                lines.append("|---|---:|" + "---:|---:|" * len(names))
            ratios = found[f"times faster than {library}"]
            cells = [f"{times[name]:.1f} | {_quartiles(ratios[name])}" for name in names]
            lines.append(f"| {backbone}: {question} | {times[library]:.1f} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Median [quartiles] in one run. {', '.join(commands)}."])


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
