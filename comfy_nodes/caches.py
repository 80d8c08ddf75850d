"""Other packs that leave out network calls or blocks: two of a kind on one model are in each other's way."""

from __future__ import annotations

from typing import Any

# What each leaves in `model_options["transformer_options"]`; the holder of "easycache" says which of two nodes it is.
_OPTIONS = {
    "easycache": "EasyCache",
    "rel_l1_thresh": "TeaCache",
    "magcache_thresh": "MagCache",
    "spectrum": "Spectrum",
    "spectrum_runtime": "Spectrum",
    "spectrum_enabled": "Spectrum",
}
# Some leave nothing there and only wrap the model's call: by a word in the name of the module that the wrapper is from.
_WRAPPERS = {"wavespeed": "First Block Cache", "fbcache": "First Block Cache", "spectrum": "Spectrum"}


def others(model_options: dict[str, Any]) -> list[str]:
    """Names of the other caches on a model, by what the packs leave in its options."""
    options = model_options.get("transformer_options", {})
    found = [title for key, title in _OPTIONS.items() if key in options and key != "easycache"]
    if "easycache" in options:
        found.append(type(options["easycache"]).__name__.removesuffix("Holder"))
    wrapper = model_options.get("model_function_wrapper")
    module = str(getattr(wrapper, "__module__", "")).lower()
    found += [title for word, title in _WRAPPERS.items() if word in module]
    return sorted(set(found))


def note(model_options: dict[str, Any]) -> str | None:
    """A sentence where another cache is on the same model; None: there is none."""
    found = others(model_options)
    if not found:
        return None
    is_on, leaves = ("is", "it leaves") if len(found) == 1 else ("are", "they leave")
    return (
        f"{' and '.join(found)} {is_on} on the same model: {leaves} out network calls or blocks that the schedule "
        "counts on, so partial steps fall back to full ones. Use one of the two"
    )
