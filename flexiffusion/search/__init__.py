"""Searching a schedule for a denoiser: planning and breeding on torch and numpy alone, so that a host can do it too."""
