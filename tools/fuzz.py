"""Hostile bytes for everything that reads a stranger's file: `codec` and the text of `png` pictures.

    python -m tools.fuzz codec|png [--inputs 1000000] [--seconds N] [--engine mutate|atheris] [--seed 0]

`mutate` is our own blind mutator over the repository's schedules and attacks; `atheris` (pip install atheris) is guided
by coverage. An input fails when anything but a ScheduleError is raised, when a refusal is long or unprintable, when an
accepted file does not come back the same, or when it takes longer than a second. The failing input is printed.
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiffusion.errors import ScheduleError

ROOT = Path(__file__).resolve().parent.parent
SLOW = 1.0  # seconds for one input
WORDS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"null", b"true", b"NaN", b"1e999", b"-0",
    b"1e-999", b"0.1", b"1000", b"-1", b"99999999999999999999999999999999999999999", b'"extra"', b'"plan"', b'"kind"',
    b'"steps"', b'"segments"', b'"full"', b'"partial"', b'"sigma"', b'"branch"', b'"drop"', b'"levels"', b'"version"',
    b'"weights"', b'"noise"', b'"flow"', b'"blocks"', b'"fingerprint"',
    b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\x00",
]  # fmt: skip


def check_codec(data: bytes) -> bool:
    """Whether the bytes were taken as a schedule. Raises AssertionError, or what the codec should not raise."""
    from flexiffusion import codec  # here and below: atheris has to see the imports
    from flexiffusion.errors import ScheduleError

    try:
        schedule = codec.loads(data, "fuzz")
    except ScheduleError as error:
        _check_refusal(error)
        return False
    canonical = codec.dumps(schedule)
    assert codec.loads(canonical) == schedule, "it does not come back the same"
    assert codec.dumps(codec.loads(canonical)) == canonical, "its canonical form is not stable"
    return True


def check_png(data: bytes) -> bool:
    """Whether the bytes were taken as a picture that carries a schedule."""
    from flexiffusion.errors import ScheduleError
    from flexsearch.sharing import png

    try:
        png.schedule_in(data, "fuzz")
    except ScheduleError as error:
        _check_refusal(error)
        return False
    return True


def _check_refusal(error: ScheduleError) -> None:
    assert error.place and error.problem and error.remedy
    assert len(str(error)) < 1000, "a refusal that floods the log"
    assert str(error).isprintable(), "a refusal that could steer a terminal"


def seeds(target: str) -> list[bytes]:
    """What the mutators begin with."""
    folders = ("schedules", "tests/golden", "tests/attacks")
    files = [path.read_bytes() for folder in folders for path in sorted((ROOT / folder).glob("*.json"))]
    if target == "codec":
        good = [path.read_bytes() for path in sorted((ROOT / "schedules").glob("*.json"))]
        return [data for data in files + 3 * good if len(data) < 8192]  # mostly good ones: more is reached from there
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    pictures = []
    for key, compressed in (("flexiffusion", False), ("flexiffusion", True), ("prompt", False), ("parameters", False)):
        info = PngInfo()
        info.add_text(key, files[0].decode(), zip=compressed)
        stream = io.BytesIO()
        Image.new("RGB", (2, 2)).save(stream, "PNG", pnginfo=info)
        pictures.append(stream.getvalue())
    return pictures


def mutated(data: bytes, stream: random.Random, others: Sequence[bytes]) -> bytes:
    """`data` with one change or a few: bits, bytes, words of the format, pieces cut, doubled, or of another file."""
    made = bytearray(data)
    for _ in range(stream.choice((1, 1, 1, 2, 3, 6))):
        at = stream.randrange(len(made) + 1)
        end = min(len(made), at + int(stream.expovariate(1 / 12)))
        match stream.randrange(10):
            case 0 if at < len(made):
                made[at] ^= 1 << stream.randrange(8)
            case 1 if at < len(made):
                made[at] = stream.randrange(256)
            case 2:
                made[at:at] = stream.choice(WORDS)
            case 3:
                made[at:end] = stream.choice(WORDS)
            case 4:
                del made[at:end]
            case 5:
                made[at:at] = made[at:end] * stream.randint(1, 4)
            case 6:
                other = stream.choice(others)
                start = stream.randrange(len(other) + 1)
                made[at:end] = other[start : start + int(stream.expovariate(1 / 40))]
            case 7:
                numbers = (0, -1, 2**31, 2**63, 10**40, 1e308, 1e-308, stream.random())
                made[at:end] = str(stream.choice(numbers)).encode()
            case 8 | 9 if at < len(made):  # a digit or letter becomes another: the files that stay good, and go deeper
                places = [i for i in range(at, min(len(made), at + 60)) if chr(made[i]).isalnum()]
                if places:
                    place = stream.choice(places)
                    made[place] = ord(stream.choice("0123456789" if chr(made[place]).isdigit() else "abcdefxyz"))
    return bytes(made)


def run_mutator(check: Callable[[bytes], bool], target: str, inputs: int, seconds: float, seed: int) -> str:
    """The figures in one line. Raises SystemExit at the first input that fails."""
    stream, corpus = random.Random(seed), seeds(target)
    began, taken, slowest, done = time.monotonic(), 0, 0.0, 0
    while done < inputs and time.monotonic() - began < seconds:
        data = mutated(stream.choice(corpus), stream, corpus)
        start = time.process_time()  # a busy machine is no fault of the input's
        try:
            taken += check(data)
        except Exception as error:
            print(f"input {done} fails: {type(error).__name__}: {error}\n{base64.b64encode(data).decode()}")
            raise SystemExit(1) from error
        slowest = max(slowest, time.process_time() - start)
        if slowest > SLOW:
            print(f"input {done} takes {slowest:.1f} s\n{base64.b64encode(data).decode()}")
            raise SystemExit(1)
        done += 1
    return (
        f"{target}: {done} inputs, {taken} taken, {done - taken} refused, none crashed; the slowest took "
        f"{slowest * 1e3:.0f} ms; {time.monotonic() - began:.0f} s in all, seed {seed}"
    )


def run_atheris(check: Callable[[bytes], bool], target: str, inputs: int, seconds: float, seed: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import tempfile

    import atheris

    with atheris.instrument_imports(include=["flexiffusion", "flexsearch.sharing"]):
        import flexsearch.sharing.png  # noqa: F401
    corpus = Path(tempfile.mkdtemp())
    for number, data in enumerate(seeds(target)):
        (corpus / str(number)).write_bytes(data)
    words = corpus.with_suffix(".dict")
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
    limit = [f"-max_total_time={int(seconds)}"] if seconds < float("inf") else []
    options = [f"-runs={inputs}", f"-seed={seed + 1}", "-timeout=1", "-max_len=8192", f"-dict={words}", *limit]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: check(data) and None)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("codec", "png"))
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    check = check_codec if asked.target == "codec" else check_png
    if asked.engine == "atheris":
        run_atheris(check, asked.target, asked.inputs, asked.seconds, asked.seed)
    print(run_mutator(check, asked.target, asked.inputs, asked.seconds, asked.seed))


if __name__ == "__main__":
    main()
