"""Keeping the model libraries quiet, for a program of our own: it changes the whole process."""

from __future__ import annotations


def quiet_models() -> None:
    """No progress bars and hints of diffusers and transformers; their errors still come as exceptions."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
