"""What the further images of a search show: many kinds of pictures, so that a schedule is not for one prompt alone."""

from __future__ import annotations

from typing import Any

# The first of `flexsearch/assets/prompts.txt`, which is not at hand in a host.
PROMPTS = (
    "a portrait of an old fisherman with a white beard, harbour behind him, morning light",
    "a red fox asleep in fresh snow",
    "wide shot of a mountain lake at dawn, mist over the water, pine forest",
    "a bowl of ramen with a soft-boiled egg and spring onions, steam rising, top view",
    "an empty subway platform at night, tiled walls, one flickering lamp",
    "watercolour of a village street in the rain, people under umbrellas",
    "a vintage green bicycle leaning against a brick wall",
    "a small robot watering tomato plants on a balcony",
    "close-up of a human eye, every lash sharp, macro photograph",
    "an astronaut playing chess with a crab on the moon",
    "oil painting of a sailing ship in a storm, huge waves, dramatic sky",
    "a golden retriever shaking off water, frozen in motion",
    "isometric drawing of a cosy living room with bookshelves and a cat",
    "a lighthouse on a cliff, long exposure, stars above the sea",
    "1girl, silver hair, school uniform, cherry blossoms, soft light, anime",
    "a stack of pancakes with blueberries and maple syrup on a wooden table",
)
PLACED = ("area", "mask", "strength", "mask_strength", "set_area_to_bounds", "gligen")  # where in a picture it acts


def others(clip: Any, own: list[Any], count: int) -> tuple[list[dict[str, Any]], ...]:
    """The conditionings of up to `count` of the prompts, as the host's guider keeps them.

    clip: the host's CLIP, of the model that is searched
    own:  the user's positive conditioning: what it says beside its text (ControlNet, guidance, references) is kept,
          but for where in the picture it acts
    """
    from comfy.sampler_helpers import convert_cond

    beside = {name: value for name, value in own[0][1].items() if name != "pooled_output" and name not in PLACED}
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in PROMPTS[:count]]
    return tuple(convert_cond([[states, {**beside, **told}] for states, told in made]) for made in encoded)
