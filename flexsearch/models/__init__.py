"""Checkpoints -> one `DiffusionModel`: the bundled tiny model, diffusers folders."""
