"""Potentials in other programs: ASE."""
