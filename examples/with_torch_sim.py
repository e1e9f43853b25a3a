"""torch-sim: many molecules in one batch, relaxed and then moved at constant energy.

pip install '.[torch-sim]'      # Python >= 3.12
python examples/with_torch_sim.py
"""

from __future__ import annotations

import numpy as np
import torch
import torch_sim
from small_model import ammonia, small_model

from mcgm.interfaces.torch_sim import MCGMModel

STEPS, TIMESTEP_PS, TEMPERATURE_K = 50, 0.0005, 300


def main() -> None:
    model = MCGMModel(small_model(), dtype=torch.float64)

    # 1. Pyramids of different height, all in one call. `charge` and `spin` come from atoms.info, if told to.
    molecules = [ammonia(height) for height in np.linspace(0.2, 0.5, 8)]
    extras = {"charge": "charge", "spin": "spin"}
    for molecule in molecules:
        molecule.info = {"charge": 0.0, "spin": 0.0}
    state = torch_sim.io.atoms_to_state(molecules, model.device, model.dtype, system_extras_map=extras)
    print("energies, eV: ", np.round(model(state)["energy"].numpy(), 3))

    # 2. torch-sim's optimisers and integrators take the model as it is.
    relaxed = torch_sim.optimize(state, model, optimizer=torch_sim.Optimizer.fire, max_steps=100)
    print("relaxed, eV:  ", np.round(relaxed.energy.numpy(), 3))
    moved = torch_sim.integrate(
        relaxed,
        model,
        integrator=torch_sim.Integrator.nve,
        n_steps=STEPS,
        temperature=TEMPERATURE_K,
        timestep=TIMESTEP_PS,
    )
    print("after NVE, eV:", np.round(moved.energy.numpy(), 3))


if __name__ == "__main__":
    main()
