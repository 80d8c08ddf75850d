"""A search inside the host's sampling, on the stand-in and, with COMFYUI_PATH, on the host's own code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_hosts import ComfyUI, StandIn, conditionings, karras, noise_for
from pack import part

search = part("comfy_nodes.search")
in_host = part("flexiffusion.search.in_host")
engine = part("comfy_nodes.apply")
auto = part("comfy_nodes.auto")
codec = part("flexiffusion.codec")
errors = part("flexiffusion.errors")
presets = part("flexiffusion.presets")

SIGMAS = karras(12)


@pytest.fixture(
    scope="module", params=["stand-in", pytest.param("comfyui", marks=pytest.mark.host)], ids=["stand-in", "comfyui"]
)
def host(request: pytest.FixtureRequest) -> Any:
    if request.param == "stand-in":
        return StandIn()
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH names no checkout of ComfyUI")
    return ComfyUI()


@pytest.fixture(autouse=True)
def _untouched(host: Any) -> Iterator[None]:
    modules = [(module, vars(module).get("forward")) for module in host.unet().modules()]
    yield
    assert [(module, vars(module).get("forward")) for module in host.unet().modules()] == modules


def searched(host: Any, evaluations: int = 8, sampler: str = "euler", **more: Any) -> tuple[torch.Tensor, Any]:
    result = search.Searched()
    request = search.Request((2.0,), 600.0, "karras", evaluations=evaluations, **more)
    model = search.searching(host.model(), request, result)
    return host.sample(model, SIGMAS, sampler=sampler, noise=noise_for(2)), result


@pytest.fixture(scope="module")
def found(host: Any) -> tuple[torch.Tensor, Any]:
    """The latent and the result of one search."""
    return searched(host)


def test_the_schedule_gives_in_the_host_the_pictures_that_the_search_returned(host: Any, found: Any) -> None:
    latent, result = found
    (made,) = result.schedules
    assert made.provenance.kind == "searched" and made.sampling.sampler == "euler" and made.sampling.steps == 12
    assert codec.loads(codec.dumps(made)) == made
    drawn = host.sample(engine.apply(host.model(), made), SIGMAS, noise=noise_for(2))
    torch.testing.assert_close(drawn, latent, rtol=1e-3, atol=1e-3)
    plain = host.sample(host.model(), SIGMAS, noise=noise_for(2))
    torch.testing.assert_close(result.plain, plain, rtol=1e-3, atol=1e-3)
    assert "8 candidates on 2 images" in result.found.report


def test_further_images_can_have_conditionings_of_their_own(host: Any) -> None:
    (other,) = conditionings(seed=8)[:1]
    latent, result = searched(host, others=(host.kept(other),))
    own, further = (
        host.sample(host.model(), SIGMAS, noise=noise_for(2)[row : row + 1], positive=positive)
        for row, positive in ((0, None), (1, [other]))
    )
    torch.testing.assert_close(result.plain, torch.cat([own, further]), rtol=1e-3, atol=1e-3)
    (made,) = result.schedules
    drawn = host.sample(engine.apply(host.model(), made), SIGMAS, noise=noise_for(2)[1:], positive=[other])
    torch.testing.assert_close(drawn, latent[1:], rtol=1e-3, atol=1e-3)


def test_auto_finds_what_was_saved_by_the_fingerprint(host: Any, found: Any, tmp_path: Path) -> None:
    _, result = found
    (path,) = in_host.save(result.schedules, tmp_path / "searched")
    reports: list[Any] = []
    chosen = auto.Auto(2.0, lambda: [presets.Preset(path, codec.read(path))])
    host.sample(engine.apply(host.model(), chosen, listener=reports.append), SIGMAS, noise=noise_for(1))
    assert reports[0].schedule == result.schedules[0].name
    assert "searched for this checkpoint" in reports[0].notes[0]


def test_an_interrupt_hands_out_the_best_so_far(host: Any) -> None:
    class Stopped(BaseException):
        pass

    def stop(progress: Any) -> None:
        if progress.evaluations == 3:
            raise Stopped

    latent, result = searched(host, evaluations=50, interrupts=(Stopped,), on_progress=stop)
    assert latent.isfinite().all() and result.found.evaluations == 3 and len(result.schedules) == 1
    assert "it was interrupted" in result.found.report


def test_a_sampler_that_cannot_be_replayed_is_searched_for_its_sibling(host: Any) -> None:
    _, result = searched(host, evaluations=2, sampler="heun")
    assert result.notes == ["sampler heun cannot be replayed by the search: searched for dpmpp_2m. Draw with that one"]
    name, _, note = in_host.solver_for("euler_ancestral")
    assert name == "euler" and "adds noise of its own" in note


def test_a_mask_is_refused(host: Any) -> None:
    request = search.Request((2.0,), 1.0)
    model = search.searching(host.model(), request, search.Searched())
    wrapper = model.wrappers["outer_sample"][search.KEY][0]

    guider = SimpleNamespace(model_patcher=model, model_options={})
    with pytest.raises(errors.FlexiffusionError, match="noise mask"):
        wrapper(SimpleNamespace(class_obj=guider), noise_for(), noise_for(), None, torch.tensor(SIGMAS), torch.ones(1))


def test_places_lie_between_the_hosts_levels() -> None:
    levels = in_host.fine([8.0, 4.0, 1.0], "vp")
    assert [levels.sigma(levels.place(sigma)) for sigma in (8.0, 4.0, 1.0)] == [8.0, 4.0, 1.0]
    assert len(levels) == 33 and list(levels.values) == sorted(levels.values)
