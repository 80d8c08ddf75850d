"""Links this checkout into a host, or takes the link away; nothing else: no network, no pip, no third-party module.

    python install.py --comfyui DIR | --webui DIR [--remove]

ComfyUI-Manager runs this file once, AUTOMATIC1111 and Forge at every launch, both without arguments: there is nothing
to install then, since the host brings everything that is needed.
Exit codes: 0 done, 1 could not be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent
NAME = "flexiffusion"

# host -> (folder for extensions, files that only this host has in its root)
HOSTS = {
    "comfyui": ("custom_nodes", ("main.py", "folder_paths.py")),
    "webui": ("extensions", ("launch.py", "modules")),
}


class Refused(Exception):
    """The link cannot be made or removed; the message says why and what to do."""


def place_of(host: str, folder: Path) -> Path:
    """Where the link of this host belongs. Raises Refused when `folder` is not such a host."""
    inside, marks = HOSTS[host]
    missing = [mark for mark in marks if not (folder / mark).exists()]
    if missing:
        raise Refused(f"{folder}: not a {host} folder, it has no {missing[0]}. Give the folder that holds it")
    return folder / inside / NAME


def link(place: Path) -> str:
    """Makes `place` a link to this checkout; once it is, does nothing. Raises Refused when something else is there."""
    if _is_ours(place):
        return f"{place} is linked already"
    if os.path.lexists(place):
        raise Refused(f"{place}: something else is there. Remove it by hand first, if you do not need it")
    place.parent.mkdir(exist_ok=True)
    if CHECKOUT.is_relative_to(place.parent.resolve()):
        raise Refused(f"{CHECKOUT}: the checkout lies in the host already. Start the host; no link is needed")
    try:
        os.symlink(CHECKOUT, place, target_is_directory=True)
    except OSError as error:
        if os.name != "nt":
            raise
        import _winapi  # a junction needs no privilege, as a symbolic link does on Windows

        try:
            _winapi.CreateJunction(str(CHECKOUT), str(place))  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            raise error from None
    return f"linked {place} to {CHECKOUT}"


def unlink(place: Path) -> str:
    """Takes the link away; the checkout stays. Raises Refused when `place` is not a link to this checkout."""
    if not os.path.lexists(place):
        return f"{place} is not there"
    if not _is_ours(place) or place.resolve() == Path(os.path.abspath(place)):
        raise Refused(f"{place}: not a link to {CHECKOUT}. Remove it by hand")
    if os.path.islink(place):
        place.unlink()
    else:
        os.rmdir(place)  # a junction
    return f"removed {place}"


def _is_ours(place: Path) -> bool:
    return os.path.lexists(place) and place.resolve() == CHECKOUT


def main(arguments: list[str]) -> int:
    """The exit code."""
    if not arguments:  # the hosts' way: at every launch, so argparse is not even built
        return 0
    parser = argparse.ArgumentParser(description="Link this checkout into a host, or take the link away.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--comfyui", metavar="DIR", type=Path, help="folder of ComfyUI, where main.py is")
    which.add_argument("--webui", metavar="DIR", type=Path, help="folder of AUTOMATIC1111 or Forge, where launch.py is")
    parser.add_argument("--remove", action="store_true", help="take the link away")
    options = parser.parse_args(arguments)
    host = "comfyui" if options.comfyui is not None else "webui"
    try:
        place = place_of(host, Path(os.path.abspath(options.comfyui or options.webui)))
        print(unlink(place) if options.remove else link(place))
    except (Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
