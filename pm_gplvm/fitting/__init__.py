"""Estimates by optimisation."""
