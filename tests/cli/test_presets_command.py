"""`flexsearch presets`: what is taken from strangers, and what is not."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from loopback import CERTIFICATE, Answer, Server, endless, serving, status
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flexiffusion import codec, presets
from flexiffusion.schedule import Metric, ModelInfo, Provenance, Sampling, Schedule, Segment, SegmentsPlan
from flexsearch.cli import exit_codes
from flexsearch.cli.app import main
from flexsearch.sharing import download, png
from flexsearch.sharing.own_presets import OwnPresets, stem_of
from webui_extension.library import Library

ROOT = Path(__file__).parents[2]
SCHEDULE = Schedule(
    name="sd15-mine-2x",
    author="A. Stranger",
    model=ModelInfo("sd15", 12, "ab" * 32),
    sampling=Sampling("dpmpp_2m", "karras", 10, 7.0, (512, 512), "epsilon"),
    plan=SegmentsPlan((Segment(5, 3, 1), Segment(5, 3, -1, "linear"))),
    metrics=(Metric("latent_mse", 1.25e-4, 64, None, "teacher, same noise, held out", (1e-4, 1.5e-4)),),
    provenance=Provenance("searched", "flexsearch 0.1.0", 7, 420),
)
GOOD = codec.dumps(SCHEDULE)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder; not there yet."""
    folder = tmp_path / "own" / "schedules"
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["presets", *map(str, arguments)])


def there(own_folder: Path) -> list[str]:
    return sorted(path.name for path in own_folder.glob("*.json")) if own_folder.is_dir() else []


def renamed(name: str, **changes: Any) -> bytes:
    return codec.dumps(dataclasses.replace(SCHEDULE, name=name, **changes))


class TestLocal:
    def test_a_file_is_added_in_its_canonical_form_and_hosts_find_it(self, own_folder: Path, tmp_path: Path) -> None:
        file = tmp_path / "any name.json"
        file.write_text(json.dumps(json.loads(GOOD), indent=7))
        done = call("add", file)
        assert done.exit_code == 0, done.stderr
        assert "sd15, searched, by A. Stranger, measured on 64 images" in done.stdout
        assert (own_folder / "sd15-mine-2x.json").read_bytes() == GOOD
        assert SCHEDULE in [preset.schedule for preset in presets.find()[0]]
        assert OwnPresets().notes()["sd15-mine-2x"].origin == str(file)
        assert "there already" in call("add", file).stdout

    def test_a_webui_that_was_there_before_has_it_by_its_name(self, own_folder: Path, tmp_path: Path) -> None:
        library = Library((presets.bundled_folder(), *presets.own_folders()))
        assert "sd15-mine-2x" not in library.choices(None)
        (tmp_path / "a.json").write_bytes(GOOD)
        call("add", tmp_path / "a.json")
        assert library.schedule("sd15-mine-2x") == SCHEDULE, "an API call has no button to press"
        assert "sd15-mine-2x" in library.choices("sd15")

    def test_show_tells_who_on_what_with_which_evidence_and_from_where(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(GOOD)
        call("add", tmp_path / "a.json")
        words = " ".join(call("show", "sd15-mine-2x").stdout.split())
        for part in ("A. Stranger", "checkpoint abababababab…", "n = 64", "found by a search", "420 evaluations"):
            assert part in words
        shown = json.loads(call("show", "sd15-mine-2x", "--json").stdout)
        assert shown["source"]["origin"] == str(tmp_path / "a.json")
        assert call("show", "nothing").exit_code == exit_codes.SCHEDULE

    def test_list_has_bundled_own_and_broken_ones(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(GOOD)
        call("add", tmp_path / "a.json")
        (own_folder / "broken.json").write_text("{")
        document = json.loads(call("list", "--json").stdout)
        names = [preset["name"] for preset in document["presets"]]
        assert {"sd15-mine-2x", "sd15-turns-10"} <= set(names)
        assert len(document["errors"]) == 1 and "broken.json" in document["errors"][0]
        done = call("list", "--family", "sd15")
        assert "broken" in done.stderr and "sdxl" not in done.stdout
        assert str(tmp_path / "a.json") in done.stdout, "nothing is cut off where the output is no terminal"

    def test_another_of_the_same_name_needs_replace_or_a_name(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(GOOD)
        (tmp_path / "b.json").write_bytes(renamed("SD15-MINE-2X", description="other"))
        call("add", tmp_path / "a.json")
        refused = call("add", tmp_path / "b.json")
        assert refused.exit_code == exit_codes.USAGE and "--replace" in refused.stderr
        assert (own_folder / "sd15-mine-2x.json").read_bytes() == GOOD
        assert call("add", tmp_path / "b.json", "--name", "theirs").exit_code == 0
        assert codec.read(own_folder / "theirs.json").name == "theirs"
        assert "replaced" in call("add", tmp_path / "b.json", "--replace").stdout
        assert there(own_folder) == ["sd15-mine-2x.json", "theirs.json"]

    def test_a_bundled_name_cannot_be_taken(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(renamed("sd15-turns-10"))
        for more in ((), ("--replace",)):
            done = call("add", tmp_path / "a.json", *more)
            assert done.exit_code == exit_codes.USAGE and "bundled" in done.stderr
        assert there(own_folder) == []

    @pytest.mark.parametrize(
        ("name", "stem"),
        [
            ("../../etc/cron.d/x", "etc-cron.d-x"),
            ("..\\..\\x", "x"),
            ("/abs", "abs"),
            (".hidden", "hidden"),
            ("a b  c", "a-b-c"),
            ("CON", "schedule-"),
            ("com1.json", "schedule-"),
            ("日本", "schedule-"),
            ("...", "schedule-"),
            ("x" * 100, "x" * 100),
        ],
    )
    def test_names_never_lead_out_of_the_folder(self, own_folder: Path, tmp_path: Path, name: str, stem: str) -> None:
        assert stem_of(name).startswith(stem)
        (tmp_path / "a.json").write_bytes(renamed(name))
        assert call("add", tmp_path / "a.json").exit_code == 0
        assert there(own_folder) == [f"{stem_of(name)}.json"]
        assert codec.read(own_folder / f"{stem_of(name)}.json").name == name

    def test_a_folder_gives_its_good_files_and_tells_of_the_others(self, own_folder: Path, tmp_path: Path) -> None:
        folder = tmp_path / "many"
        (folder / "deeper.json").mkdir(parents=True)
        (folder / "a.json").write_bytes(renamed("a"))
        (folder / "b.json").write_bytes(renamed("b"))
        (folder / "huge.json").write_bytes(b" " * 100_000)
        (folder / "c.txt").write_bytes(renamed("c"))
        (folder / "link.json").symlink_to("/etc/passwd")
        os.mkfifo(folder / "pipe.json")  # opening it the plain way would wait for ever
        done = call("add", folder)
        assert done.exit_code == exit_codes.SCHEDULE
        assert there(own_folder) == ["a.json", "b.json"]
        for words in ("65536 bytes", "symbolic link", "pipe.json: it is no regular file"):
            assert words in done.stderr
        assert "root:" not in done.stderr

    def test_of_a_repository_or_run_the_schedules_folder_counts(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "run" / "schedules").mkdir(parents=True)
        (tmp_path / "run" / "result.json").write_text("{}")
        (tmp_path / "run" / "schedules" / "a.json").write_bytes(GOOD)
        assert call("add", tmp_path / "run").exit_code == 0
        assert there(own_folder) == ["sd15-mine-2x.json"]

    def test_symbolic_links_are_not_followed(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(GOOD)
        (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
        (tmp_path / "folder").symlink_to(tmp_path)
        for source in ("link.json", "folder"):
            done = call("add", tmp_path / source)
            assert done.exit_code == exit_codes.SOURCE and "symbolic link" in done.stderr
        assert there(own_folder) == []

    @pytest.mark.parametrize("source", ["/dev/zero", "/nowhere", "a\0b"])
    def test_what_is_no_file(self, own_folder: Path, source: str) -> None:
        assert call("add", source).exit_code == exit_codes.SOURCE
        assert not own_folder.exists()

    def test_every_attack_is_refused(self, own_folder: Path) -> None:
        attacks = ROOT / "tests" / "attacks"
        done = call("add", attacks, "--json")
        assert done.exit_code == exit_codes.SCHEDULE
        document = json.loads(done.stdout)
        assert document["presets"] == [] and len(document["refused"]) == len(list(attacks.glob("*.json")))
        assert there(own_folder) == []

    def test_remove(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(GOOD)
        call("add", tmp_path / "a.json")
        for name in ("sd15-turns-10", "../sd15-mine-2x", str(own_folder / "sd15-mine-2x"), "x"):
            done = call("remove", "sd15-mine-2x", name)
            assert done.exit_code == exit_codes.USAGE
            assert there(own_folder) == ["sd15-mine-2x.json"], "all or none"
        assert call("remove", "sd15-mine-2x").exit_code == 0
        assert there(own_folder) == [] and OwnPresets().notes() == {}

    def test_an_unwritable_folder_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(GOOD)
        (tmp_path / "file").touch()
        done = call("add", tmp_path / "a.json", "--folder", tmp_path / "file" / "x")
        assert done.exit_code == exit_codes.USAGE and "cannot be written" in done.stderr


def picture(**texts: str) -> bytes:
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


ONE_LINE = json.dumps(json.loads(GOOD))
COMFY = {"4": {"class_type": "FlexiffusionLoadSchedule", "inputs": {"preset": "x.json", "json": ONE_LINE}}, "5": 3}


class TestPictures:
    @pytest.mark.parametrize(
        "texts",
        [
            {codec.PNG_KEY: GOOD.decode()},
            {"prompt": json.dumps(COMFY), "workflow": "{}"},
            {"parameters": f"a cat\nSteps: 30, Flexi schedule: {json.dumps(ONE_LINE)}, Flexi run: full 10"},
        ],
    )
    def test_ours_comfyuis_and_the_webuis(self, own_folder: Path, tmp_path: Path, texts: dict[str, str]) -> None:
        (tmp_path / "a.png").write_bytes(picture(**texts))
        done = call("add", tmp_path / "a.png")
        assert done.exit_code == 0, done.stderr
        assert (own_folder / "sd15-mine-2x.json").read_bytes() == GOOD

    def test_what_show_draws_can_be_added(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(GOOD)
        drawn = CliRunner().invoke(main, ["show", str(tmp_path / "a.json"), "--png", str(tmp_path / "b.png")])
        assert drawn.exit_code == 0, drawn.stderr
        assert call("add", tmp_path / "b.png").exit_code == 0
        assert (own_folder / "sd15-mine-2x.json").read_bytes() == GOOD

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (picture(), "carries no schedule"),
            (picture(parameters="Flexi schedule: sd15-turns-6, Steps: 3"), "names the schedule 'sd15-turns-6'"),
            (picture(prompt="[" * 100_000), "carries no schedule"),
            (picture(flexiffusion="{" + " " * 70_000), "more than 65536 bytes"),
            (png.SIGNATURE + b"\0" * 100, "cannot be read"),
            (picture()[:20], "cannot be read"),
            (picture(flexiffusion='{"format": "other"}'), "$.format"),
        ],
    )
    def test_refused(self, own_folder: Path, tmp_path: Path, data: bytes, words: str) -> None:
        (tmp_path / "a.png").write_bytes(data)
        done = call("add", tmp_path / "a.png")
        assert done.exit_code == exit_codes.SCHEDULE
        assert words in done.stderr and len(done.stderr) < 600
        assert there(own_folder) == []

    def test_a_compressed_text_is_not_unpacked_without_limit(self, own_folder: Path, tmp_path: Path) -> None:
        body = b"flexiffusion\0\0" + zlib.compress(b" " * (20 << 20))
        chunk = len(body).to_bytes(4, "big") + b"zTXt" + body + zlib.crc32(b"zTXt" + body).to_bytes(4, "big")
        small = picture()
        (tmp_path / "a.png").write_bytes(small[:33] + chunk + small[33:])
        done = call("add", tmp_path / "a.png")
        assert done.exit_code == exit_codes.SCHEDULE and there(own_folder) == []


def silent(_: Any, server: Server) -> None:
    server.closing.wait()


def reset(connection: Any, _: Server) -> None:
    connection.close()


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
# Each is one way in which a server misbehaves: what it answers, and what the refusal says.
MISBEHAVIOUR: dict[str, tuple[Answer, str]] = {
    "endless-body": (endless(HEAD + b"\r\n", b" " * 65536), "more than 65536 bytes"),
    "announces-10-gb": (HEAD + b"Content-Length: 10737418240\r\n\r\n{", "announces 10737418240 bytes"),
    "breaks-off": (HEAD + b"Content-Length: 2000\r\n\r\n" + GOOD[:500], "broke off"),
    "drips": (endless(HEAD + b"\r\n", b" ", 0.05), "not done after"),
    "drips-headers": (endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"a", 0.05), "not done after"),
    "never-answers": (silent, "not done after"),
    "hangs-up": (reset, "does not answer as a web server"),
    "endless-headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), "does not answer as a web server"),
    "endless-status-line": (endless(b"HTTP/1.1 ", b"2" * 65536), "does not answer as a web server"),
    "no-http": (b"\0\xff220 ftp ready\r\n\r\n", "does not answer as a web server"),
    "gzip-unasked": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + zlib.compress(b" " * 10**7), "answers in 'gzip'"),
    "bad-chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", "broke off"),
    "redirects-to-http": (status(302, b"", "Location: http://127.0.0.1/a.json"), "http: is not taken"),
    "redirects-to-a-file": (status(302, b"", "Location: file:///etc/passwd"), "redirects lead nowhere"),
    "redirects-to-ftp": (status(301, b"", "Location: ftp://127.0.0.1/a.json"), "ftp: is not taken"),
    "redirects-in-a-circle": (status(302, b"", "Location: /redirects-in-a-circle"), "redirects lead nowhere"),
    "error-page-without-end": (endless(b"HTTP/1.1 500 No\r\n\r\n", b" " * 65536), "status 500"),
    "log-in-page": (status(200, b"\n<!DOCTYPE html><title>Log in</title>"), "a web page"),
    "no-schedule": (status(200, b'{"format": "\\u001b[2J"}'), "$.format"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving({f"/{name}": answer for name, (answer, _) in MISBEHAVIOUR.items()}) as running:
        yield running


class TestAddresses:
    @pytest.mark.parametrize("name", sorted(MISBEHAVIOUR))
    def test_a_server_that_misbehaves(
        self, name: str, server: Server, own_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "SECONDS", 1.0)
        began = time.monotonic()
        done = call("add", f"{server.address}/{name}")
        assert time.monotonic() - began < 5
        assert done.exit_code in (exit_codes.SOURCE, exit_codes.SCHEDULE)
        assert MISBEHAVIOUR[name][1] in done.stderr
        assert len(done.stderr) < 800 and "Traceback" not in done.stderr
        assert done.stderr.replace("\n", "").isprintable()
        assert not own_folder.exists(), "nothing is written"

    def test_a_server_that_behaves(self, own_folder: Path) -> None:
        evil = 'Content-Disposition: attachment; filename="../../evil.json"'
        answers = {"/..%2f..%2fx.json": status(200, GOOD, evil), "/a": status(307, b"", "Location: /..%2f..%2fx.json")}
        with serving(answers) as running:
            done = call("add", f"{running.address}/a")
            assert done.exit_code == 0, done.stderr
            assert there(own_folder) == ["sd15-mine-2x.json"]
            assert "Accept-Encoding: identity" in running.asked[0]

    def test_a_picture(self, own_folder: Path) -> None:
        with serving({"/a.png": status(200, picture(flexiffusion=GOOD.decode()))}) as running:
            assert call("add", f"{running.address}/a.png").exit_code == 0
        assert there(own_folder) == ["sd15-mine-2x.json"]

    def test_a_certificate_that_nobody_vouches_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        with serving({"/a.json": status(200, GOOD)}) as running:
            done = call("add", f"{running.address}/a.json")
        assert done.exit_code == exit_codes.SOURCE and "CERTIFICATE_VERIFY_FAILED" in done.stderr

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("http://127.0.0.1/a.json", "only https"),
            ("file:///etc/passwd", "only https"),
            ("ftp://127.0.0.1/a.json", "only https"),
            ("https:///a.json", "no host"),
            ("https://user:secret@127.0.0.1/a.json", "name or password"),
            ("https://127.0.0.1:99999/a.json", "no address"),
            ("https://127.0.0.1:9/a.json", "cannot be reached"),
            ("https://127.0.0.1:9/a b\r\nX: y", "does not answer"),
            ("hf:nobody", "no repository"),
            ("hf:../..", "no repository"),
            ("hf:a/b@../c", "no revision"),
        ],
    )
    def test_addresses_that_are_not_taken(self, source: str, words: str) -> None:
        done = call("add", source)
        assert done.exit_code == exit_codes.SOURCE and words in done.stderr
        assert "secret" not in done.stderr


class TestPull:
    def test_takes_what_has_changed_and_keeps_what_was_edited(self, own_folder: Path) -> None:
        with serving({"/a.json": status(200, GOOD)}) as running:
            address = f"{running.address}/a.json"
            assert call("add", address).exit_code == 0
            assert "unchanged" in call("pull").stdout
            newer = dataclasses.replace(SCHEDULE, description="better", name="now called otherwise")
            running.answers["/a.json"] = status(200, codec.dumps(newer))
            assert "updated" in call("pull", "sd15-mine-2x").stdout
            assert codec.read(own_folder / "sd15-mine-2x.json").description == "better"
            assert codec.read(own_folder / "sd15-mine-2x.json").name == "sd15-mine-2x"
            codec.write(own_folder / "sd15-mine-2x.json", SCHEDULE)
            kept = call("pull")
            assert kept.exit_code == exit_codes.USAGE and "edited" in kept.stderr
            assert (own_folder / "sd15-mine-2x.json").read_bytes() == GOOD
            assert "updated" in call("pull", "--replace").stdout
            running.answers.clear()
            assert call("pull").exit_code == exit_codes.SOURCE
            assert there(own_folder) == ["sd15-mine-2x.json"], "what is gone there stays here"
        assert call("pull", "sd15-turns-10").exit_code == exit_codes.USAGE


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TestHub:
    """The real huggingface_hub, in a process of its own, against a hub on loopback."""

    def call(self, server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.address,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_only_for_the_hub",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "REQUESTS_CA_BUNDLE": str(CERTIFICATE),
        }
        command = [sys.executable, "-m", "flexsearch", "presets", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    def test_a_repository_at_its_commit(self, own_folder: Path) -> None:
        names = ("schedules/a.json", "schedules/huge.json", "schedules/../../x.json", "config.json", "model.bin")
        siblings = [{"rfilename": name, "size": 10**9 if "huge" in name else len(GOOD)} for name in names]
        info = {"_id": "1", "id": "me/fast", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        listing = status(200, json.dumps(info).encode(), "Content-Type: application/json")
        elsewhere = {"/elsewhere.json": status(200, GOOD)}
        with serving(elsewhere) as other:
            answers: dict[str, Answer] = {
                "/api/models/me/fast": listing,
                f"/me/fast/resolve/{COMMIT}/schedules/a.json": status(
                    302, b"", f"Location: {other.address}/elsewhere.json"
                ),
            }
            with serving(answers) as running:
                done = self.call(running, "add", "hf:me/fast")
                asked = "".join(running.asked)
            assert done.returncode == exit_codes.SOURCE, done.stderr  # one file was refused
            assert there(own_folder) == ["sd15-mine-2x.json"]
            assert "has 1000000000 bytes" in done.stderr
            assert "x.json" not in asked and "huge.json H" not in asked and "model.bin H" not in asked
            assert "authorization: bearer hf_only_for_the_hub" in asked.lower()
            assert "hf_only_for_the_hub" not in "".join(other.asked), "the token stays with the hub"
        assert OwnPresets().notes()["sd15-mine-2x"].origin == f"hf:me/fast@{COMMIT}:schedules/a.json"

    def test_a_private_repository_that_was_renamed(self, own_folder: Path) -> None:
        """The hub redirects to the new name on its own host, and asks for the token there too."""
        info = {"_id": "1", "id": "me/fast", "sha": COMMIT, "private": True, "tags": [],
                "siblings": [{"rfilename": "schedules/a.json", "size": len(GOOD)}]}  # fmt: skip
        answers: dict[str, Answer] = {
            "/api/models/me/old": status(200, json.dumps(info).encode(), "Content-Type: application/json"),
            f"/me/fast/resolve/{COMMIT}/schedules/a.json": status(307, b"", "Location: /renamed.json"),
            f"/me/old/resolve/{COMMIT}/schedules/a.json": status(307, b"", "Location: /renamed.json"),
            "/renamed.json": status(200, GOOD),
        }
        with serving(answers) as running:
            done = self.call(running, "add", "hf:me/old")
        assert done.returncode == 0, done.stderr
        assert there(own_folder) == ["sd15-mine-2x.json"]
        (redirected,) = [asked for asked in running.asked if "/renamed.json" in asked.splitlines()[0]]
        assert "authorization: bearer hf_only_for_the_hub" in redirected.lower()

    def test_a_hub_that_has_no_such_repository(self, own_folder: Path) -> None:
        with serving({}) as running:
            done = self.call(running, "add", "hf:me/gone")
        assert done.returncode == exit_codes.SOURCE and "hf:me/gone" in done.stderr
        assert "Traceback" not in done.stderr and not own_folder.exists()


class TestShare:
    def test_what_is_shared_can_be_added(self, own_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(renamed("mine", author=""))
        refused = call("share", tmp_path / "a.json", "--out", tmp_path / "out")
        assert refused.exit_code == exit_codes.USAGE and "--author" in refused.stderr
        assert not (tmp_path / "out").exists()
        (tmp_path / "p.png").write_bytes(picture())
        done = call(
            "share", tmp_path / "a.json", "sd15-turns-10", "--out", tmp_path / "out", "--author", "Me | <b>",
            "--picture", tmp_path / "p.png", "--title", "Mine",
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr
        readme = (tmp_path / "out" / "README.md").read_text()
        assert readme.startswith("---\nlibrary_name: flexiffusion\nlicense: cc0-1.0\n")
        assert "# Mine" in readme and "<b>" not in readme and "comparison.png" in readme
        assert "a hand-made rule, nothing measured" in readme
        assert "1.25e-4 (1.00 to 1.50e-4), n = 64" in readme
        assert call("add", tmp_path / "out").exit_code == 0
        assert codec.read(own_folder / "mine.json").author == "Me | <b>"
        again = call("share", "mine", "--out", tmp_path / "out")
        assert again.exit_code == exit_codes.USAGE and "not empty" in again.stderr

    def test_uploading_needs_a_token(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        done = call("share", "sd15-turns-10", "--out", tmp_path / "o", "--author", "me", "--repo", "me/fast")
        assert done.exit_code == exit_codes.SOURCE and "hf auth login" in done.stderr
        assert (tmp_path / "o" / "README.md").exists()

    def test_what_is_uploaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, Any] = {}

        class Api:
            def create_repo(self, repo: str, **_: Any) -> str:
                return f"https://huggingface.co/{repo}"

            def upload_folder(self, **options: Any) -> None:
                asked.update(options)

        monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
        monkeypatch.setattr("huggingface_hub.HfApi", Api)
        done = call("share", "sd15-turns-10", "--out", tmp_path / "o", "--author", "me", "--repo", "me/fast")
        assert done.exit_code == 0 and "uploaded to https://huggingface.co/me/fast" in done.stdout
        assert asked["repo_id"] == "me/fast" and asked["folder_path"] == tmp_path / "o"
        assert "schedules/*.json" in asked["allow_patterns"]


def test_settings_of_a_group_lie_in_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def families(*arguments: str) -> set[str]:
        done = call("list", "--json", *arguments)
        assert done.exit_code == 0, done.stderr
        return {preset["family"] for preset in json.loads(done.stdout)["presets"]}

    Path("flexsearch.toml").write_text('[presets.list]\nfamily = "sd15"\n')
    assert families() == {"sd15"}
    monkeypatch.setenv("FLEXSEARCH_PRESETS_LIST_FAMILY", "sdxl")
    assert families() == {"sdxl"}
    assert families("--family", "sd21") == {"sd21"}
    for text, words in (
        ('[presets.list]\nfamly = "sd15"\n', "[presets.list] famly"),
        ("[presets.lst]\n", "presets.lst"),
        ("[presets]\nfamily = 3\n", "presets.family"),
    ):
        Path("flexsearch.toml").write_text(text)
        done = call("list")
        assert done.exit_code == exit_codes.USAGE and words in done.stderr


class TestWords:
    def test_a_family_that_no_preset_is_for(self) -> None:
        done = call("list", "--family", "nope")
        assert done.exit_code == exit_codes.USAGE
        assert "no preset is for 'nope'. There are some for " in done.stderr and "sd15" in done.stderr

    def test_nothing_to_pull(self, tmp_path: Path) -> None:
        done = call("pull", "--folder", tmp_path)
        assert done.exit_code == 0 and "nothing to pull" in done.stdout

    def test_accents_are_taken_off_file_names(self) -> None:
        assert stem_of("über schnell ✓") == "uber-schnell"

    def test_a_folder_that_cannot_be_listed_is_no_broken_preset(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(presets.OVERRIDE, str(tmp_path / "nowhere"))
        done = call("list")
        assert done.exit_code == 0 and done.stderr == ""
        assert f"{tmp_path / 'nowhere'} (it cannot be listed)" in done.stdout

    def test_show_reads_the_schedule_that_a_picture_carries(self, tmp_path: Path) -> None:
        file, strip = tmp_path / "mine.json", str(tmp_path / "strip.png")
        codec.write(file, SCHEDULE)
        runner = CliRunner()
        assert runner.invoke(main, ["show", str(file), "--png", strip]).exit_code == 0
        shown = [json.loads(runner.invoke(main, ["show", name, "--json"]).stdout) for name in (str(file), strip)]
        assert shown[0]["schedule"] == shown[1]["schedule"]
        assert runner.invoke(main, ["validate", strip]).exit_code == exit_codes.SCHEDULE
        missing = runner.invoke(main, ["show", str(tmp_path / "none.png")])
        assert missing.exit_code == exit_codes.SCHEDULE and "none.png: cannot be read" in missing.stderr
