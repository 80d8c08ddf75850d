"""Schedule files of a Hugging Face repository, at one commit; `huggingface_hub` finds and uploads, never unpacks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flexiffusion import codec
from flexsearch.errors import SourceError
from flexsearch.sharing.download import download

MAX_FILES = 200
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}", re.ASCII)
_FILE = re.compile(r"(?:schedules/)?[A-Za-z0-9_][^/\\\x00-\x1f]{0,199}\.json")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEB = "huggingface.co"


@dataclass(frozen=True)
class Repository:
    """`OWNER/NAME`, and a branch, tag or commit; None: the newest of the main branch."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.id}" + (f"@{self.revision}" if self.revision else "")


def repository(source: str) -> Repository | None:
    """What `hf:OWNER/NAME[@REVISION]` or the address of a repository's page means; None for any other source.

    Raises SourceError for a name that no repository can have.
    """
    if source.startswith("hf:"):
        name, _, revision = source.removeprefix("hf:").partition("@")
    else:
        try:
            parts = urlsplit(source)
        except ValueError:
            return None
        path = unquote(parts.path).strip("/").split("/")
        if parts.scheme != "https" or parts.hostname != _WEB or not (len(path) == 2 or path[2:3] == ["tree"]):
            return None
        name, revision = "/".join(path[:2]), "/".join(path[3:])
    if not _ID.fullmatch(name) or ".." in name or "--" in name:
        raise SourceError(
            source[:200], f"{name[:100]!r} is no repository", "Give hf:OWNER/NAME, or hf:OWNER/NAME@REVISION"
        )
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SourceError(source[:200], f"{revision[:100]!r} is no revision", "Give a branch, a tag or a commit")
    return Repository(name, revision or None)


def files(wanted: Repository) -> list[tuple[str, bytes | SourceError]]:
    """Every schedule file of the repository: its origin, `hf:OWNER/NAME@COMMIT:PATH`, and its bytes or why not.

    Those in `schedules/` if there are any, else those in the root. Raises SourceError.
    """
    import huggingface_hub as hub

    api = hub.HfApi()
    try:
        info = api.model_info(wanted.id, revision=wanted.revision, files_metadata=True, timeout=10)
        token = hub.get_token()
    except Exception as error:  # of several libraries, by version: network, permission, missing repository
        raise _refused(wanted, error) from None
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise SourceError(str(wanted), "the hub does not say which commit it is at", "Try again later")
    sizes = {file.rfilename: file.size for file in info.siblings or () if _FILE.fullmatch(file.rfilename)}
    names = sorted(name for name in sizes if name.startswith("schedules/")) or sorted(sizes)
    if not names:
        raise SourceError(str(wanted), "it has no .json file in its root or in schedules/", "Check the repository")
    if len(names) > MAX_FILES:
        raise SourceError(str(wanted), f"it has {len(names)} .json files", f"Give one with at most {MAX_FILES}")
    return [_file(wanted, commit, name, sizes[name], api.endpoint, token) for name in names]


def upload(folder: Path, repo: str) -> str:
    """Uploads what `repository.write` made, with the token of `hf auth login` or HF_TOKEN; its address.

    Raises SourceError.
    """
    import huggingface_hub as hub

    wanted = repository(f"hf:{repo}")
    assert wanted is not None
    if hub.get_token() is None:
        raise SourceError(f"--repo {repo}", "there is no token", "Run `hf auth login`, or set HF_TOKEN")
    try:
        api = hub.HfApi()
        address = api.create_repo(wanted.id, exist_ok=True)
        api.upload_folder(
            repo_id=wanted.id,
            folder_path=folder,
            allow_patterns=["README.md", "*.png", "schedules/*.json"],
            commit_message="Share schedules",
        )
    except Exception as error:  # as above
        raise _refused(wanted, error) from None
    return str(address)


def _file(
    wanted: Repository, commit: str, name: str, size: int | None, endpoint: str, token: str | None
) -> tuple[str, bytes | SourceError]:
    import huggingface_hub as hub

    origin = f"hf:{wanted.id}@{commit}:{name}"
    if size is not None and size > codec.MAX_BYTES:
        return origin, SourceError(origin, f"it has {size} bytes, more than {codec.MAX_BYTES}", "It is no schedule")
    try:
        address = hub.hf_hub_url(wanted.id, name, revision=commit, endpoint=endpoint)
        return origin, download(address, codec.MAX_BYTES, token)
    except SourceError as error:
        return origin, error


def _refused(wanted: Repository, error: Exception) -> SourceError:
    words = str(error).strip().splitlines()
    return SourceError(
        str(wanted),
        f"the hub refused or was not reached ({type(error).__name__}: {words[0][:160] if words else ''})",
        "Check the name, the network, and for a private repository HF_TOKEN",
    )
