"""flexsearch: searches sampling schedules of diffusion models. From Python: `flexsearch.search` (docs/python.md)."""

TYPE_CHECKING = False  # as type checkers know it, without importing typing
if TYPE_CHECKING:
    from .runs.from_python import search as search
    from .runs.search_run import Result as Result
    from .runs.settings import Settings as Settings

__all__ = ["Result", "Settings", "search"]

_PLACES = {"Result": "runs.search_run", "Settings": "runs.settings", "search": "runs.from_python"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
