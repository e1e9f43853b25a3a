import pytest
from ase import units

from mcgm.errors import ConfigError
from mcgm.units import factor


@pytest.mark.parametrize(
    ("quantity", "unit", "value"),
    [
        ("energy", "hartree", units.Hartree),
        ("energy", "kcal/mol", units.kcal / units.mol),
        ("energy", "kJ/mol", units.kJ / units.mol),
        ("length", "bohr", units.Bohr),
        ("forces", "hartree/bohr", units.Hartree / units.Bohr),
        ("forces", "kcal/mol/A", units.kcal / units.mol),
        ("stress", "GPa", units.GPa),
        ("stress", "eV/Å³", 1.0),
        ("dipole", "debye", units.Debye),
        ("charge", "e", 1.0),
    ],
)
def test_factors_agree_with_ase(quantity, unit, value):
    assert factor(quantity, unit) == pytest.approx(value, rel=1e-6)


def test_an_unknown_unit_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean 'hartree'.*kcal/mol"):
        factor("energy", "hartre")


def test_an_unknown_unit_of_forces_is_told_without_listing_every_product():
    with pytest.raises(ConfigError, match="ENERGY/LENGTH") as caught:
        factor("forces", "hartree/bohrs")
    assert "Did you mean 'hartree/bohr'" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_unknown_quantity_is_refused():
    with pytest.raises(ConfigError, match="unknown quantity 'mass'"):
        factor("mass", "amu")
