"""Flexiffusion: step schedules (full, partial, null) for diffusion U-Nets and transformers, and how they are run.

Importing the package imports nothing else: `schedule`, `codec`, `presets`, `plan` and `cost` need the standard library
only, `layouts`, `cut`, `predictor`, `solver` and `run` need torch.
"""

__version__ = "0.1.0"
