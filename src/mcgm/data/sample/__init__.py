"""The bundled sample: 2,000 conformers of 92 drug-like molecules with GFN2-xTB energies and forces (CC0)."""

from pathlib import Path


def sample_path() -> Path:
    """The bundled npz: H C N O F P S Cl, 36 to 62 atoms, `cid` groups the conformers of a molecule.

    `tools/make_sample.py` makes it.
    """
    return Path(__file__).with_name("sample.npz")
