"""Trajectories: solvers on arbitrary timestep lists, per-image noise, and how the noise levels may be spaced."""
