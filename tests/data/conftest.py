import numpy as np
import pytest

from mcgm.structure import Structure


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """Caches of shared data and of the sample go to a folder of this test run."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("MCGM_CACHE", str(folder))
    return folder


@pytest.fixture
def molecules():
    """Water, ammonia and two geometries of methane with made-up labels."""
    random = np.random.default_rng(3)
    items = []
    for k, numbers in enumerate([[8, 1, 1], [7, 1, 1, 1], [6, 1, 1, 1, 1], [6, 1, 1, 1, 1]]):
        n = len(numbers)
        items.append(
            Structure(
                numbers=np.array(numbers),
                positions=random.normal(size=(n, 3)) * 2,
                energy=float(random.normal() - 10 * n),
                forces=random.normal(size=(n, 3)),
                charges=random.normal(size=n),
                dipole=random.normal(size=3),
                name=f"molecule {k}",
                group=str(min(k, 2)),
            )
        )
    return items


def same(a: Structure, b: Structure, tolerance: float = 0.0) -> bool:
    """Whether two structures agree in every field."""
    for name in (
        "numbers",
        "positions",
        "cell",
        "pbc",
        "charge",
        "spin",
        "energy",
        "forces",
        "stress",
        "dipole",
        "charges",
    ):
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None):
            return False
        if x is not None and not np.allclose(np.asarray(x, float), np.asarray(y, float), rtol=0, atol=tolerance):
            return False
    return a.name == b.name and a.group == b.group


@pytest.fixture
def agree():
    """The comparison `same` as a fixture."""
    return same
