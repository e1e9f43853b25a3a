"""Molecular dynamics and relaxation on ASE's integrators, with records that outlive a killed process."""
