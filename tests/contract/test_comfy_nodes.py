"""What the node pack promises to saved workflows, and its texts, read without the host."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy_api_standin
import comfy_hosts
import pytest
import torch
from pack import ROOT, load_pack, part

from flexiffusion.strip import KIND_COLOURS, KIND_HEIGHTS

GOLDEN = ROOT / "tests" / "golden" / "comfy_nodes.json"
LANGUAGES = ("en", "zh", "ja")


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The pack on the stand-in, and the node classes."""
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path / "none"))
    host = comfy_api_standin.install(monkeypatch, tmp_path / "models")
    name = load_pack().__name__
    host.nodes = asyncio.run(asyncio.run(load_pack().comfy_entrypoint()).get_node_list())
    host.schemas = [node.define_schema() for node in host.nodes]
    host.models = tmp_path / "models"
    yield host
    # modules that imported the stand-in must not be met again by another test
    kept = (".comfy_nodes.apply", ".comfy_nodes.auto", ".comfy_nodes.samplers", ".comfy_nodes.search")
    for module in [m for m in sys.modules if m.startswith(f"{name}.comfy_nodes") and not m.endswith(kept)]:
        del sys.modules[module]


def described(schema: Any) -> dict[str, Any]:
    """What saved workflows hold on to: the id, the inputs in their order, the outputs in theirs."""
    return {
        "id": schema.node_id,
        "inputs": [[one.id, one.kind, bool(one.facts.get("optional"))] for one in schema.inputs],
        "outputs": [[one.facts["display_name"], one.kind] for one in schema.outputs],
    }


def test_ids_inputs_and_outputs_are_frozen(pack: Any) -> None:
    found = [described(schema) for schema in pack.schemas]
    if os.environ.get("UPDATE_GOLDEN"):
        rows = ",\n".join(json.dumps(node) for node in found)
        GOLDEN.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8")), (
        "saved workflows depend on this: only ever add optional inputs at the end (UPDATE_GOLDEN=1)"
    )


def test_every_input_and_output_has_a_tooltip(pack: Any) -> None:
    for schema in pack.schemas:
        assert schema.description and schema.category and schema.search_aliases
        for one in (*schema.inputs, *schema.outputs):
            assert len(one.facts["tooltip"]) > 10, (schema.node_id, one.id)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_complete(pack: Any, language: str) -> None:
    texts = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert list(texts) == [schema.node_id for schema in pack.schemas]
    for schema in pack.schemas:
        node = texts[schema.node_id]
        assert list(node["inputs"]) == [one.id for one in schema.inputs]
        assert list(node["outputs"]) == [str(i) for i in range(len(schema.outputs))]
        for one, text in [
            *((one, node["inputs"][one.id]) for one in schema.inputs),
            *((one, node["outputs"][str(i)]) for i, one in enumerate(schema.outputs)),
        ]:
            assert text["name"] and text["tooltip"]
            if language == "en":
                assert text["tooltip"] == one.facts["tooltip"], (schema.node_id, one.id)
        assert node["display_name"] and node["description"]
        if language == "en":
            assert (node["display_name"], node["description"]) == (schema.display_name, schema.description)


def test_every_node_has_a_page(pack: Any) -> None:
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert pages == {schema.node_id for schema in pack.schemas}


def test_example_workflows_have_pictures_and_known_nodes(pack: Any) -> None:
    workflows = sorted((ROOT / "example_workflows").glob("*.json"))
    assert len(workflows) >= 3
    inputs = {schema.node_id: [one.id for one in schema.inputs] for schema in pack.schemas}
    used = set()
    for path in workflows:
        assert any(path.with_suffix(ending).exists() for ending in (".jpg", ".png", ".webp")), path
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if node["type"].startswith("Flexiffusion"):
                used.add(node["type"])
                assert sorted(one["name"] for one in node["inputs"]) == sorted(inputs[node["type"]]), path
    assert used == set(inputs), "every node is shown in an example"


def test_example_workflows_hold_null_only_for_missing_links() -> None:
    """The front end's schema refuses null elsewhere, and tells the user so in a large alert."""

    def nulls(value: Any, name: str) -> list[str]:
        if isinstance(value, dict):
            return [found for key, item in value.items() for found in nulls(item, key)]
        if isinstance(value, list):
            return [found for item in value for found in nulls(item, name)]
        return [name] if value is None else []

    for path in (ROOT / "example_workflows").glob("*.json"):
        assert set(nulls(json.loads(path.read_text(encoding="utf-8")), "")) <= {"link", "links", "widgets_values"}, path


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "golden" / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_released_workflows_still_fit_the_nodes(pack: Any, path: Path) -> None:
    """Row 20, without the host: every input of a released workflow is known, and none that is needed is missing."""
    schemas = {schema.node_id: schema for schema in pack.schemas}
    found = [node for node in json.loads(path.read_text()).values() if node["class_type"] in schemas]
    assert found
    for node in found:
        known = {one.id: one for one in schemas[node["class_type"]].inputs}
        assert set(node["inputs"]) <= set(known)
        assert {name for name, one in known.items() if not one.facts.get("optional")} <= set(node["inputs"])


class TestLoad:
    def node(self, pack: Any) -> Any:
        return pack.nodes[2]

    def test_file_text_and_refusals(self, pack: Any) -> None:
        load = self.node(pack)
        (from_file,) = load.execute("sd15-turns-6.json").args
        assert from_file.name == "sd15-turns-6"
        text = (ROOT / "schedules" / "sdxl-turns-6.json").read_text()
        assert load.execute("not there.json", text).args[0].name == "sdxl-turns-6"
        # the host repeats an answer of `validate_inputs` for every input: a refusal comes once, from `execute`
        assert load.validate_inputs("not there.json") is True
        errors = part("flexiffusion.errors")
        for preset, pasted, said in (("not there", "", "there is no such schedule in"), ("a", "x", "json: line 1")):
            with pytest.raises(errors.ScheduleError, match=said):
                load.execute(preset, pasted)
        assert load.fingerprint_inputs("not there.json") == ""

    def test_fingerprints_follow_the_contents(self, pack: Any) -> None:
        load, mine = self.node(pack), pack.models / "flexiffusion" / "mine.json"
        mine.parent.mkdir(parents=True)
        seen = []
        for name in ("sd15-turns-6", "sd15-turns-8"):
            mine.write_bytes((ROOT / "schedules" / f"{name}.json").read_bytes())
            seen.append(load.fingerprint_inputs("mine.json"))
        assert len({*seen, load.fingerprint_inputs("mine.json", "text")}) == 3
        assert load.fingerprint_inputs("sd15-turns-8.json") == seen[1]

    def test_the_dropdown(self, pack: Any) -> None:
        options = pack.schemas[2].inputs[0].facts["options"]
        assert options == ["auto", *sorted(path.stem for path in (ROOT / "schedules").glob("*.json"))]

    def test_what_is_added_while_the_host_runs_is_there(
        self, pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`flexsearch presets add` makes the user's folder when it is first needed: after the host has started."""
        monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path / "later"))
        part("comfy_nodes.folders").register()
        (tmp_path / "later").mkdir()
        bytes_of = (ROOT / "schedules" / "sd15-turns-6.json").read_bytes()
        (tmp_path / "later" / "theirs.json").write_bytes(bytes_of)
        assert "theirs" in part("comfy_nodes.folders").names()
        assert self.node(pack).execute("theirs.json")

    def test_a_folder_of_extra_model_paths_stays(self, pack: Any, tmp_path: Path) -> None:
        import folder_paths

        folder_paths.add_model_folder_path("flexiffusion", str(tmp_path / "extra"))
        (tmp_path / "extra" / "sub").mkdir(parents=True)
        bytes_of = (ROOT / "schedules" / "sd15-turns-6.json").read_bytes()
        (tmp_path / "extra" / "sub" / "theirs.json").write_bytes(bytes_of)
        part("comfy_nodes.folders").register()
        assert "sub/theirs" in part("comfy_nodes.folders").names()
        assert folder_paths.get_folder_paths("flexiffusion")[0] == str(pack.models / "flexiffusion")


def test_presets_for_the_connected_model(pack: Any) -> None:
    """21 of 30 presets refuse any given model: the list has those that fit, and all where the model is not known."""
    from test_comfy_headers import unet, written

    folder = pack.models / "checkpoints"
    folder.mkdir(parents=True)
    written(folder / "xl.safetensors", unet(9, 2048))
    fitting = part("comfy_nodes.routes").fitting
    found = fitting("xl.safetensors")
    assert found["family"] == "sdxl" and "sdxl-turns-10" in found["presets"]
    assert found["presets"][0] == "auto" and all(name.startswith("sdxl-") for name in found["presets"][1:])
    for unknown in ("", "not there.safetensors", "../xl.safetensors"):
        assert fitting(unknown) == {"family": None, "presets": ["auto", *part("comfy_nodes.folders").names()]}


def test_a_checkpoint_of_a_family(pack: Any) -> None:
    from test_comfy_headers import unet, written

    folder = pack.models / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "a note.safetensors").write_bytes(b"no header")
    written(folder / "b xl.safetensors", unet(9, 2048))
    written(folder / "c first.safetensors", unet(12, 768))
    written(folder / "d second.safetensors", unet(12, 768))
    checkpoint_of = part("comfy_nodes.routes").checkpoint_of
    assert checkpoint_of("sd15") == "c first.safetensors" and checkpoint_of("sdxl") == "b xl.safetensors"
    assert checkpoint_of("flux") is None


def test_a_schedule_is_embedded_where_asked(pack: Any) -> None:
    node = pack.nodes[2]
    saved: dict[str, Any] = {"workflow": {}}
    node.hidden = SimpleNamespace(extra_pnginfo=saved)
    try:
        node.execute("sd15-turns-6")
        assert list(saved) == ["workflow"]
        (schedule,) = node.execute("sd15-turns-6", embed=True).args
        assert part("flexiffusion.codec").loads(json.dumps(saved["flexiffusion"]).encode(), "picture") == schedule
        node.hidden = SimpleNamespace(extra_pnginfo=None)  # an API call without a workflow
        node.execute("sd15-turns-6", embed=True)
    finally:
        del node.hidden
    first, second = (node.fingerprint_inputs("sd15-turns-6", "", embed=True) for _ in range(2))
    assert first != second, "every run embeds into its own pictures"


def test_the_difference_picture(pack: Any) -> None:
    difference = part("comfy_nodes.nodes.compare")._difference
    first = torch.full((1, 2, 2, 3), 0.5)
    assert difference(first, first).abs().max() == 0
    torch.testing.assert_close(difference(first, first + 0.1), torch.full_like(first, 0.4))
    assert difference(first, first + 0.5).max() == 1


class TestAuto:
    def test_load_hands_out_what_is_chosen_later(self, pack: Any) -> None:
        load = pack.nodes[2]
        (auto,) = load.execute("auto", "", 3.0).args
        assert auto.name == "auto 3x" and any(preset.schedule.name == "sd15-turns-6" for preset in auto.presets())
        assert load.execute("auto").args[0].speedup == 2.0, "a workflow without the slider"
        assert load.validate_inputs("auto") is True and load.fingerprint_inputs("auto") == ""
        assert part("comfy_nodes.nodes.common").steps_of(auto, 0) == 30
        text = (ROOT / "schedules" / "sdxl-turns-6.json").read_text()
        assert load.execute("auto", text).args[0].name == "sdxl-turns-6", "text wins"

    def test_the_strip_shows_the_rule(self, pack: Any) -> None:
        shown = part("comfy_nodes.inline").strip(part("comfy_nodes.inline").chosen("auto", "", 2.0))
        assert shown["counts"] == "15 full, 15 partial" and shown["name"] == "auto 2x"
        assert shown["model"] == "chosen when sampling starts"
        json.dumps(shown)

    def test_schedule_sigmas_cannot_know(self, pack: Any) -> None:
        (auto,) = pack.nodes[2].execute("auto").args
        with pytest.raises(part("flexiffusion.errors").ScheduleError, match="chosen when sampling starts"):
            pack.nodes[3].execute(torch.tensor([14.0, 9.0, 5.0, 0.0]), auto)

    def test_the_node_clones_the_model(self, pack: Any) -> None:
        node = next(node for node in pack.nodes if node.__name__ == "AutoSchedule")
        model = comfy_hosts.StandIn().model()
        (made,) = node.execute(model, 2.0).args
        assert made is not model and "outer_sample" in made.wrappers and not model.wrappers


def test_schedule_sigmas(pack: Any, caplog: pytest.LogCaptureFixture) -> None:
    (schedule,) = pack.nodes[2].execute("sd15-turns-6.json").args
    sigmas = torch.tensor([14.0, 9.0, 5.0, 3.0, 1.0, 0.5, 0.0])
    thinned, sampler = pack.nodes[3].execute(sigmas, schedule).args
    assert thinned[0] == 14.0 and thinned[-1] == 0.0 and len(thinned) == 7 and thinned.dtype == sigmas.dtype
    assert "has 12 steps here and 6 were asked for: it is thinned to 6" in caplog.text
    enough = torch.tensor([15.0 * 0.7**i for i in range(20)] + [0.0])
    assert len(pack.nodes[3].execute(enough, schedule).args[0]) == 13
    empty = torch.tensor([])
    assert pack.nodes[3].execute(empty, schedule).args[0] is empty
    assert sampler == "euler"  # the stand-in's: a name where the host makes an object of it
    own = part("flexiffusion.codec").read(Path(__file__).parents[1] / "golden" / "weights.json")
    thinned, solver = pack.nodes[3].execute(torch.tensor([own.plan.levels[0] * 0.7**i for i in range(8)]), own).args
    assert callable(solver)


def test_the_strip(pack: Any) -> None:
    inline = part("comfy_nodes.inline")
    shown = inline.strip(inline.chosen("sd15-turns-6.json"))
    assert shown["steps"] == [["full", None], ["partial", 0]] * 6
    assert shown["colours"] == KIND_COLOURS and shown["heights"] == KIND_HEIGHTS
    assert shown["counts"] == "6 full, 6 partial, own noise levels"
    assert shown["model"] == "sd15, heuristic" and "a hand-made rule" in shown["made_for"]
    json.dumps(shown)
    dropping = inline.chosen("", (Path(__file__).parents[1] / "golden" / "steps.json").read_text(encoding="utf-8"))
    assert inline.strip(dropping)["counts"].endswith(", 3 units dropped, own noise levels")
    assert list(pack.routes) == ["/flexiffusion/strip", "/flexiffusion/presets", "/flexiffusion/checkpoint"]
    part("comfy_nodes.routes").register()
    assert list(pack.routes) == ["/flexiffusion/strip", "/flexiffusion/presets", "/flexiffusion/checkpoint"]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def test_the_pack_imports_the_core_the_host_torch_and_nothing_else() -> None:
    """host packages -> core only, by relative imports: the folder may have any name (docs/design.md)."""
    host = {"comfy", "comfy_api", "folder_paths", "latent_preview", "nodes", "server", "aiohttp"}
    for path in sorted((ROOT / "comfy_nodes").rglob("*.py")):
        for module, level in imports(path):
            first = module.split(".")[0]
            if level == 0:
                assert first in sys.stdlib_module_names or first in host | {"torch"}, (path, module)
            if path.name in ("apply.py", "samplers.py"):
                assert first not in host, "the engine imports nothing of the host"
            assert first not in ("flexsearch", "webui_extension"), (path, module)


def test_importing_the_pack_imports_no_host_and_takes_no_time() -> None:
    """What ComfyUI pays at start besides torch: less than 200 ms, here with a wide margin for a busy machine."""
    script = f"""
import sys, time, importlib.util, torch
before = set(sys.modules); start = time.process_time()
root = {str(ROOT)!r}
spec = importlib.util.spec_from_file_location("p_x_q", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["p_x_q"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import p_x_q.comfy_nodes.apply
print(time.process_time() - start)
print(sorted({{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, names = done.stdout.splitlines()
    assert names == "['p_x_q']"
    assert float(seconds) < 0.5


def test_metadata_of_the_registry() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["project"]["dependencies"] == []
    comfy = document["tool"]["comfy"]
    assert comfy["DisplayName"] == "Flexiffusion" and comfy["PublisherId"] and "web" not in comfy
    ignored = (ROOT / ".comfyignore").read_text().splitlines()
    for folder in ("flexsearch/", "tests/", "tools/", "benchmarks/"):
        assert folder in ignored
    for needed in ("flexiffusion", "comfy_nodes", "schedules", "web", "locales", "example_workflows", "__init__.py"):
        assert not any(needed == line.strip("/") for line in ignored) and (ROOT / needed).exists()
