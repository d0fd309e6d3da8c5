"""Compute intervals, tests and bootstraps."""
