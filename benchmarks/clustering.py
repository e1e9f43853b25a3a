"""How fast is K-means++ on many groups at once, beside a loop over scikit-learn, and is it as good?

python benchmarks/clustering.py
"""

from __future__ import annotations

import os

import numpy as np
import torch
from side_by_side import ratio, seconds, store
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from mcgm.long_range.mcgm.assignment import Nodes
from mcgm.long_range.mcgm.chance import Chance
from mcgm.long_range.mcgm.kmeans import kmeans

GROUPS, POINTS, CHANNELS, CLUSTERS, ITERATIONS = 64, 100, 128, 10, 20


def inertia(points: np.ndarray, label: np.ndarray) -> float:
    """Sum of squared distances to the cluster means."""
    total = 0.0
    for group, own in zip(points, label, strict=True):
        for cluster in np.unique(own):
            members = group[own == cluster]
            total += float(((members - members.mean(0)) ** 2).sum())
    return total


def measure(points: np.ndarray, rounds: int) -> dict[str, object]:
    """Ratios of time and inertia for one set of points (group, point, channel)."""
    flat = torch.from_numpy(points.reshape(-1, CHANNELS))
    members = Nodes.counted(torch.full((GROUPS,), POINTS))
    clusters = Nodes.counted(torch.full((GROUPS,), CLUSTERS))
    chance = Chance(torch.Generator().manual_seed(0), torch.arange(GROUPS))

    def ours(chance: Chance | None) -> np.ndarray:
        label = kmeans(flat, members, clusters, iterations=ITERATIONS, chance=chance)
        return label.numpy().reshape(GROUPS, POINTS)

    def oracle() -> np.ndarray:
        settings = {"n_clusters": CLUSTERS, "n_init": 1, "max_iter": ITERATIONS, "random_state": 0}
        return np.stack([KMeans(**settings).fit_predict(group) for group in points])

    functions = {"deterministic": lambda: ours(None), "drawn": lambda: ours(chance), "scikit-learn loop": oracle}
    times = seconds(functions, rounds)
    best = inertia(points, oracle())
    return {
        "milliseconds, median": {name: round(1e3 * float(np.median(values)), 2) for name, values in times.items()},
        "times faster, deterministic": ratio(times, "scikit-learn loop", "deterministic"),
        "times faster, drawn": ratio(times, "scikit-learn loop", "drawn"),
        "inertia / scikit-learn's, deterministic": round(inertia(points, ours(None)) / best, 4),
        "inertia / scikit-learn's, drawn": round(inertia(points, ours(chance)) / best, 4),
    }


def main() -> None:
    """Points without structure, and points around as many centres as there are clusters."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(GROUPS, POINTS, CHANNELS)).astype(np.float32)
    centers = 2 * random.normal(size=(GROUPS, CLUSTERS, CHANNELS)).astype(np.float32)
    grouped = noise + centers[:, random.integers(0, CLUSTERS, POINTS)]
    figures = {
        "question": f"{GROUPS} groups x {POINTS} points x {CHANNELS} channels into {CLUSTERS} clusters",
    }
    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            figures[f"threads {threads}"] = {
                "points without structure": measure(noise, rounds=15),
                "points around centres": measure(grouped, rounds=15),
            }
    store("clustering", figures)


if __name__ == "__main__":
    main()
