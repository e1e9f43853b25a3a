"""How long are gradients at the start of training, and how many steps are clipped? With a block and without.

    python benchmarks/gradient_norms.py [--steps 120]

PaiNN alone and with MCGM in the recipe `configs/backbones.yaml`, seed 0, nothing clipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from side_by_side import store

from mcgm.training.batches import Collate
from mcgm.training.config import CompareConfig
from mcgm.training.datamodule import StructureDataModule
from mcgm.training.loss import loss_terms
from mcgm.training.parts import predicted
from mcgm.training.preparation import make_potential, open_parts
from mcgm.training.recipe import read_recipe, to_config

RECIPE = Path(__file__).parent.parent / "configs" / "backbones.yaml"
LIMITS = (10.0, 100.0)


def norms(config: CompareConfig, variant: str, steps: int) -> np.ndarray:
    """Norm of the gradient of every step."""
    cell = config.cell(variant, 0, "")
    torch.manual_seed(0)
    parts = open_parts(cell.data)
    potential = make_potential(cell, parts).train()
    collate = Collate(potential, potential.dtype)
    batches = StructureDataModule(parts.train, parts.val, collate, cell.training).sampler(0).batches[:steps]
    optimizer = torch.optim.AdamW(potential.parameters(), lr=cell.training.learning_rate)
    found = []
    for chosen in batches:
        data = collate([parts.train[k] for k in chosen])
        prediction = predicted(potential, data.batch, forces=True, stress=False, generator=None)
        loss = loss_terms(prediction.energy, prediction.forces, data, cell.training.loss).mean(cell.training.loss)
        loss.backward()
        found.append(
            float(torch.nn.utils.get_total_norm([p.grad for p in potential.parameters() if p.grad is not None]))
        )
        optimizer.step()
        optimizer.zero_grad()
    return np.array(found)


def main() -> None:
    """Both variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = to_config(read_recipe(RECIPE, CompareConfig), CompareConfig, source=str(RECIPE))
    figures: dict[str, object] = {"question": f"norm of the gradient in the first {options.steps} steps, seed 0"}
    for variant in ("painn", "painn-mcgm"):
        found = norms(config, variant, options.steps)
        figures[variant] = {"median": round(float(np.median(found)), 1)} | {
            f"share above {limit:g}": round(float((found > limit).mean()), 3) for limit in LIMITS
        }
    store("gradient_norms", figures)


if __name__ == "__main__":
    main()
