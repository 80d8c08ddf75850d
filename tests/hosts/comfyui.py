"""A ComfyUI server for tests: from a checkout, on loopback, with a folder of its own and nothing of the user's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent.parent
PACK = (
    "9-Flexi.diffusion"  # the host loads a pack under whatever name its folder has (a blank breaks its own web files)
)


class Failed(Exception):
    """A prompt was refused or ended in an error; the message is the host's answer."""


@dataclass
class Done:
    """What the host says of an executed prompt."""

    outputs: dict[str, Any]
    status: str

    def texts(self) -> str:
        """All text that nodes sent to the front end."""
        return "\n".join(text for output in self.outputs.values() for text in output.get("text", ()))


class Server:
    """`with Server(checkout, folder) as server: server.run(graph.prompt)`."""

    def __init__(self, checkout: Path, folder: Path, models: Path, pack: str = PACK) -> None:
        self.folder = folder
        self.log_file = folder / "server.log"
        for name in ("custom_nodes", "input", "output", "temp", "user"):
            (folder / name).mkdir(parents=True)
        (folder / "models").symlink_to(models, target_is_directory=True)
        (folder / "custom_nodes" / pack).symlink_to(ROOT, target_is_directory=True)
        shutil.copy(Path(__file__).parent / "probe_pack.py", folder / "custom_nodes" / "probe_pack.py")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        # fmt: off
        self._command = [
            sys.executable, str(checkout / "main.py"), "--cpu", "--use-pytorch-cross-attention",
            "--listen", "127.0.0.1", "--port", self.address.split(":")[1], "--base-directory", str(folder),
            "--database-url", f"sqlite:///{folder / 'host.db'}", "--disable-api-nodes",
        ]
        # fmt: on
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
        environment["FLEXIFFUSION_PRESETS"] = str(self.folder / "no such folder")
        with open(self.log_file, "wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        for _ in range(2400):
            if self._process.poll() is not None:
                raise Failed(f"the server ended at once:\n{self.log()}")
            try:
                self.get("/system_stats")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.25)
        raise Failed(f"the server did not answer in 600 s:\n{self.log()}")

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    @property
    def process(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def post(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            f"http://{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise Failed(error.read().decode()) from None

    def start(self, prompt: dict[str, Any]) -> str:
        """Queues a prompt and returns its id. Raises Failed when it is not valid."""
        return str(self.post("/prompt", {"prompt": prompt})["prompt_id"])

    def wait(self, identity: str, seconds: float = 800) -> Done:
        """The end of a prompt. Raises Failed when a node raised."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            entry = self.get(f"/history/{identity}").get(identity)
            if entry is not None:
                status = entry["status"]
                if status["status_str"] == "error" and not any(
                    kind == "execution_interrupted" for kind, _ in status["messages"]
                ):
                    raise Failed(json.dumps(status["messages"][-1]))
                return Done(entry["outputs"], status["status_str"])
            time.sleep(0.1)
        raise Failed(f"not done in {seconds} s:\n{self.log()[-3000:]}")

    def run(self, prompt: dict[str, Any]) -> Done:
        return self.wait(self.start(prompt))

    def latent(self, name: str) -> Tensor:
        """The newest latent that SaveLatent wrote under this prefix. # (B, C, H, W)"""
        newest = max((self.folder / "output").glob(f"{name}_*.latent"))
        return load_file(newest)["latent_tensor"]

    def probed(self) -> list[dict[str, Any]]:
        """What the probe recorded, one entry a sampling, since the last call."""
        file = self.folder / "output" / "probe.jsonl"
        (self.folder / "output" / "probe.calls").unlink(missing_ok=True)
        if not file.exists():
            return []
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        return lines

    def calls(self) -> int:
        """Network calls that the probe saw since `probed` was called."""
        file = self.folder / "output" / "probe.calls"
        return file.stat().st_size if file.exists() else 0
