"""How fast is K-means++ on the ragged groups of a batch, beside other libraries, and is it as good?

    pip install --no-deps --target others torch-kmeans fast-pytorch-kmeans
    PYTHONPATH=others python benchmarks/clustering.py [--device cuda]

64 groups of 20 to 200 points, a tenth as many clusters. Others take one group at a time; torch-kmeans takes groups of
one size at once, which is a case of its own. All start from K-means++, once, and do at most as many rounds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from fast_pytorch_kmeans import KMeans as FastKMeans
from side_by_side import ratio, seconds, store
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch_kmeans import KMeans as TorchKMeans

from mcgm.long_range.mcgm.assignment import Nodes
from mcgm.long_range.mcgm.chance import Chance
from mcgm.long_range.mcgm.kmeans import kmeans
from mcgm.memory import keep_freed_memory

GROUPS, LEAST, MOST, CHANNELS, ITERATIONS = 64, 20, 200, 128, 20
POINTS_PER_CLUSTER = 10

PRODUCTS = "products of points alone"
"""What ours computes first, all distances follow from it; unpadded: no clustering by it can be faster."""

Clustering = Callable[[], list[np.ndarray]]


def inertia(groups: list[np.ndarray], labels: list[np.ndarray]) -> float:
    """Sum of squared distances to the cluster means."""
    total = 0.0
    for group, own in zip(groups, labels, strict=True):
        for cluster in np.unique(own):
            members = group[own == cluster]
            total += float(((members - members.mean(0)) ** 2).sum())
    return total


def ours(groups: list[np.ndarray], *, drawn: bool, device: str) -> Clustering:
    """All groups at once."""
    sizes = torch.tensor([len(group) for group in groups], device=device)
    flat = torch.from_numpy(np.concatenate(groups)).to(device)
    members, clusters = Nodes.counted(sizes), Nodes.counted(sizes // POINTS_PER_CLUSTER)
    chance = Chance(torch.Generator().manual_seed(0), torch.arange(len(groups), device=device)) if drawn else None
    edges = np.concatenate([[0], np.cumsum([len(group) for group in groups])])

    def run() -> list[np.ndarray]:
        label = kmeans(flat, members, clusters, iterations=ITERATIONS, chance=chance).cpu().numpy()
        return [label[start:stop] for start, stop in pairwise(edges)]

    return run


def others(groups: list[np.ndarray], device: str) -> dict[str, Clustering]:
    """One group after another; scikit-learn on the CPU always."""
    tensors = [torch.from_numpy(group).to(device) for group in groups]

    def scikit() -> list[np.ndarray]:
        settings = {"n_init": 1, "max_iter": ITERATIONS, "random_state": 0}
        return [KMeans(len(group) // POINTS_PER_CLUSTER, **settings).fit_predict(group) for group in groups]

    def fast() -> list[np.ndarray]:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002, that is what it draws from
        settings = {"max_iter": ITERATIONS, "init_method": "kmeans++"}
        return [FastKMeans(len(x) // POINTS_PER_CLUSTER, **settings).fit_predict(x).cpu().numpy() for x in tensors]

    def one_by_one() -> list[np.ndarray]:
        settings = {"init_method": "k-means++", "num_init": 1, "max_iter": ITERATIONS, "verbose": False, "seed": 0}
        found = [TorchKMeans(**settings)(x[None], k=len(x) // POINTS_PER_CLUSTER) for x in tensors]
        return [one.labels[0].cpu().numpy() for one in found]

    return {"scikit-learn": scikit, "fast-pytorch-kmeans": fast, "torch-kmeans": one_by_one}


def in_a_batch(groups: list[np.ndarray], device: str) -> Clustering:
    """torch-kmeans on groups of one size."""
    stacked = torch.from_numpy(np.stack(groups)).to(device)
    settings = {"init_method": "k-means++", "num_init": 1, "max_iter": ITERATIONS, "verbose": False, "seed": 0}
    return lambda: list(TorchKMeans(**settings)(stacked, k=stacked.shape[1] // POINTS_PER_CLUSTER).labels.cpu().numpy())


def measure(groups: list[np.ndarray], libraries: dict[str, Clustering], rounds: int, device: str) -> dict[str, object]:
    """Ratios of time and inertia."""
    both = {name: ours(groups, drawn=name != "ours", device=device) for name in ("ours", "ours, drawn")}
    functions = both | libraries
    tensors = [torch.from_numpy(group).to(device) for group in groups]
    least = {PRODUCTS: lambda: [points @ points.T for points in tensors][-1].cpu()}  # which waits for all
    times = seconds(functions | least, rounds)
    best = inertia(groups, functions["scikit-learn"]())
    return {
        "milliseconds, median": {name: round(1e3 * float(np.median(values)), 2) for name, values in times.items()},
        "times faster": {name: ratio(times, name, "ours") for name in libraries},
        "times faster, products alone": {name: ratio(times, name, PRODUCTS) for name in libraries},
        "times faster, drawn": {name: ratio(times, name, "ours, drawn") for name in libraries},
        "inertia / scikit-learn's": {name: round(inertia(groups, run()) / best, 4) for name, run in functions.items()},
    }


def around_centres(random: np.random.Generator, group: np.ndarray) -> np.ndarray:
    """The points moved to as many centres as there are clusters."""
    clusters = len(group) // POINTS_PER_CLUSTER
    centers = 2 * random.normal(size=(clusters, CHANNELS))
    return (group + centers[random.integers(0, clusters, len(group))]).astype(np.float32)


def main() -> None:
    """Points without structure, and points around centres."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="of all but scikit-learn: cpu, cuda")
    options = parser.parse_args()
    keep_freed_memory()
    random = np.random.default_rng(0)
    sizes = random.integers(LEAST, MOST + 1, GROUPS)
    noise = [random.normal(size=(size, CHANNELS)).astype(np.float32) for size in sizes]
    equal = [random.normal(size=(100, CHANNELS)).astype(np.float32) for _ in range(GROUPS)]
    figures: dict[str, object] = {
        "question": f"{GROUPS} groups of {LEAST} to {MOST} points x {CHANNELS} channels, a cluster for "
        f"{POINTS_PER_CLUSTER} points, at most {ITERATIONS} rounds"
    }
    if options.device != "cpu":
        figures["question"] = f"{figures['question']}, {torch.cuda.get_device_name()}, scikit-learn on its host"
    for threads in (1,) if options.device != "cpu" else (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            cases = {
                "points without structure": noise,
                "points around centres": [around_centres(random, group) for group in noise],
                "groups of 100 points without structure": equal,
            }
            found: dict[str, object] = {}
            for name, groups in cases.items():
                libraries = others(groups, options.device)
                if name.startswith("groups of"):
                    libraries["torch-kmeans, all at once"] = in_a_batch(groups, options.device)
                found[name] = measure(groups, libraries, options.rounds, options.device)
            figures[f"threads {threads}"] = found
    store("clustering" if options.device == "cpu" else f"clustering_{options.device}", figures)


if __name__ == "__main__":
    main()
