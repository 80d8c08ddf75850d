"""Checkpoints -> one `DiffusionModel`: the bundled tiny model, single files, diffusers folders."""
