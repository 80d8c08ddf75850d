"""Sampling: the images that are drawn, the references, the solvers."""
