"""`flexsearch doctor`: what is installed, which devices, which hosts, and what to fix."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import click

from flexiffusion import __version__
from flexsearch.cli import exit_codes, output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place


class Line(NamedTuple):
    """One thing looked at. `fix` None: it is well."""

    topic: str
    what: str
    fix: str | None = None


@click.command(cls=Command)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    type=Place(path_type=Path),
    help="A folder of ComfyUI, AUTOMATIC1111 or Forge to look at; may be given several times.",
)
@output.json_option
@click.pass_context
def doctor(ctx: click.Context, hosts: tuple[Path, ...]) -> None:
    """Check the installation (packages, devices, presets, hosts), and say what to fix. Nothing is changed.

    Hosts are looked for in the folders given, in COMFYUI_PATH, WEBUI_PATH and FORGE_PATH, around this checkout, and in
    the usual places below your home. Exit code 2 if there is something to fix.
    """
    lines = [*_packages(), *_devices(), *_presets(), *_hosts(hosts)]
    broken = [line for line in lines if line.fix is not None]
    if output.wants_json():
        output.emit({"lines": [_document(line) for line in lines], "to_fix": len(broken)})
    else:
        for line in lines:
            click.echo(output.printable(f"{'FIX ' if line.fix else 'ok  '} {line.topic:9} {line.what}"))
            if line.fix:
                click.echo(output.printable(f"{'':14} -> {line.fix}"))
        click.echo(f"{len(broken)} to fix" if broken else "nothing to fix")
    ctx.exit(exit_codes.USAGE if broken else exit_codes.OK)


def _packages() -> Iterator[Line]:
    yield Line("flexsearch", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}")
    try:
        requirements = metadata.requires("flexiffusion") or []
    except metadata.PackageNotFoundError:
        yield Line("packages", "running from a checkout that is not installed: versions are not checked")
        return
    from packaging.requirements import Requirement

    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is None or not wanted.marker.evaluate({"extra": "search"}):
            continue
        try:
            have = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Line("packages", f"{wanted.name} is missing", f'pip install "{wanted.name}{wanted.specifier}"')
            continue
        fix = f'pip install -U "{wanted.name}{wanted.specifier}"'
        # local versions such as 2.13.0+cpu count as 2.13.0; development versions count
        fits = wanted.specifier.contains(have, prereleases=True)
        yield Line("packages", f"{wanted.name} {have}", None if fits else fix)


def _devices() -> Iterator[Line]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that torch needs
        yield Line("device", f"torch cannot be imported ({error})", "Install torch for your device: pytorch.org")
        return
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        yield Line("device", f"cuda:{index}, {facts.name}, {facts.total_memory / 2**30:.1f} GiB")
    if torch.version.cuda and not torch.cuda.is_available():
        yield Line("device", f"torch is built for CUDA {torch.version.cuda}, but sees no GPU (fine without one)")
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        yield Line("device", "mps")
    yield Line("device", f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads used")


def _presets() -> Iterator[Line]:
    from flexiffusion import presets

    found, errors = presets.find()
    bundled = sum(preset.path.parent == presets.bundled_folder() for preset in found)
    fix = None if bundled else "Install flexiffusion again"
    yield Line("presets", f"{bundled} bundled in {presets.bundled_folder()}", fix)
    for folder in presets.own_folders():
        count = sum(preset.path.parent == folder for preset in found)
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            fix = f"Make {nearest} writable, or set {presets.OVERRIDE} to another folder"
            yield Line("presets", f"{folder} cannot be written", fix)
        else:
            yield Line("presets", f"{count} of your own in {folder}" + ("" if folder.is_dir() else " (not there yet)"))
    for error in errors:
        if not error.problem.startswith(presets.UNLISTED):  # that folder has its line above
            yield Line("presets", f"{error.place}: {error.problem}", error.remedy)


def _hosts(given: tuple[Path, ...]) -> Iterator[Line]:
    from flexsearch.sharing import hosts

    for folder in given:
        if hosts.kind_of(folder) is None:
            yield Line("host", f"{folder} is neither ComfyUI nor a WebUI", "Give the folder with main.py or launch.py")
    found = hosts.find(given)
    if not found:
        yield Line("host", "none found; name one with --host DIR")
    installer = Path(__file__).resolve().parents[2] / "install.py"
    for host in found:
        name = f"{host.kind} in {host.folder}"
        link = f"python {installer} --{host.kind} {host.folder}"
        if not installer.is_file():  # installed from a wheel, which has no files for hosts
            link = f"clone the repository into {host.folder / hosts.HOSTS[host.kind][0]}"
        if not host.copies:
            yield Line("host", f"{name}: not installed", link if host.named else None)
        for copy in host.copies[1:]:
            yield Line("host", f"{name}: installed twice, also as {copy.place}", f"Remove one of them: {copy.place}")
        for copy in host.copies[:1]:
            if copy.version is None:
                yield Line("host", f"{copy.place}: it leads nowhere", f"Remove it, then: {link}")
            elif copy.version != __version__:
                yield Line("host", f"{name}: version {copy.version}, not {__version__}", f"Update {copy.place}")
            else:
                to = f", a link to {copy.target}" if copy.target else ""
                yield Line("host", f"{name}: installed as {copy.place}{to}")


def _document(line: Line) -> dict[str, Any]:
    return {"topic": line.topic, "what": line.what, "ok": line.fix is None, "fix": line.fix}
