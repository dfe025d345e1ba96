"""Seeded camera runs with known truth, written as FITS."""
