"""Other libraries' words, kept off the terminal: this program's choice, never its library's."""

from __future__ import annotations


def quiet() -> None:
    """No progress bars and hints of diffusers, transformers and Optuna; their errors still come as exceptions."""
    import optuna

    from flexsearch.models.quiet import quiet_models

    quiet_models()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
