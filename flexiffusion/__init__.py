"""Flexiffusion: step schedules (full, partial, null) for diffusion U-Nets and transformers, and how they are run.

    handle = flexiffusion.apply(pipe, "sd15-deepcache-3")

What is listed in `__all__` is the public API (docs/python.md). Importing the package imports nothing else: `schedule`,
`codec`, `presets`, `plan` and `cost` need the standard library only, `layouts`, `cut`, `predictor`, `solver`, `run`
and `pipeline` need torch.
"""

TYPE_CHECKING = False  # as type checkers know it, without importing typing
if TYPE_CHECKING:
    from . import presets as presets
    from .codec import read as read
    from .codec import write as write
    from .pipeline import apply as apply
    from .pipeline import supported as supported
    from .schedule import Schedule as Schedule

__version__ = "0.1.0"
__all__ = ["Schedule", "apply", "presets", "read", "supported", "write"]

_PLACES = {"Schedule": "schedule", "apply": "pipeline", "read": "codec", "supported": "pipeline", "write": "codec"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f".{_PLACES.get(name, name)}", __name__)
    return module if name not in _PLACES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
