"""MkDocs' hook: pages that live beside the code join the site.

`docs/` is written to be read in the repository as well, where `../benchmarks/README.md` is a page; on the site that
folder is `benchmarks/`. What a page links to that is no page (a schema, a list of prompts) is copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = ["benchmarks/README.md", "schedules/README.md"] + [
    f"{name}.md" for name in ("CHANGELOG", "CODE_OF_CONDUCT", "CONTRIBUTING", "SECURITY")
]
FENCE = re.compile(r"^( *```\w+) [^\n]*$", re.MULTILINE)
ITEM = re.compile(r"(?:\d\.|-) (?=\S)")
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    for beside in BESIDE:
        files.append(File.generated(config, beside, abs_src_path=str(ROOT / beside)))
    known = {file.src_uri for file in files}
    for page in [file for file in files if file.is_documentation_page()]:
        for target in LINK.findall(page.content_string):
            name = _in_site(page.src_uri, target)
            for file in _files(ROOT / name) if name and not (ROOT / "docs" / name).exists() else ():
                if (uri := file.relative_to(ROOT).as_posix()) not in known:
                    known.add(uri)
                    files.append(File.generated(config, uri, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    here = page.file.src_uri

    def rewritten(match: re.Match[str]) -> str:
        name = _in_site(here, match[1])
        if name is None:
            return str(match[0])
        if (ROOT / name).is_dir() and not (ROOT / "docs" / name).exists():
            name = _files(ROOT / name)[0].relative_to(ROOT).as_posix()
        return "](" + "../" * here.count("/") + name

    return LINK.sub(rewritten, plain_fences(deeper_lists(markdown)))


def plain_fences(markdown: str) -> str:
    """Code blocks named by their language alone: the site's Markdown takes `sh own` for text."""
    return FENCE.sub(r"\1", markdown)


def deeper_lists(markdown: str) -> str:
    """What belongs to an item of a list indented by four columns, where GitHub is content with the marker's width."""
    lines: list[str] = []
    width = 0  # of the marker of the item that we are in; 0: in none
    for line in markdown.split("\n"):
        if found := ITEM.match(line):
            width = len(found[0])
        elif width and line.startswith(" " * width):
            line = " " * (4 - width) + line
        elif line:
            width = 0
        lines.append(line)
    return "\n".join(lines)


def _in_site(page: str, target: str) -> str | None:
    """The site's name of what a page links to; None for a link that needs nothing."""
    folder = (ROOT if page in BESIDE else ROOT / "docs") / Path(page).parent
    file = (folder / target).resolve()
    if not file.exists():
        return None  # the strict build names it
    name = file.relative_to(ROOT).as_posix()
    if name == "README.md":
        return "README.md"
    return name.removeprefix("docs/")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
