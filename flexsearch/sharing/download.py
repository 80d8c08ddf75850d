"""One small file from an https address, whatever else the other end may have in mind.

Bounded in bytes and in seconds, https only (redirects too), nothing decoded, no file written. A stranger's server may
send without end, drop by drop, or not at all: the whole exchange runs in a thread that nobody waits for any longer
than `SECONDS`.
"""

from __future__ import annotations

import http.client
import queue
import threading
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from flexsearch.errors import SourceError

SECONDS = 30.0  # for everything: name, connection, redirects, body
_STALL = 10.0  # without a byte
_REDIRECTS = 5
_WORDS = 120  # characters of a stranger's words that are repeated


def download(url: str, limit: int, token: str | None = None) -> bytes:
    """The body at `url`, of at most `limit` bytes. Raises SourceError, at the latest after `SECONDS`.

    token: sent to this host only, not to where it redirects
    """
    check_address(url)
    answer: queue.Queue[bytes | BaseException] = queue.Queue(1)

    def work() -> None:
        try:
            answer.put(_exchange(url, limit, token, time.monotonic() + SECONDS))
        except BaseException as error:
            answer.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        result = answer.get(timeout=SECONDS)
    except queue.Empty:
        raise _too_slow(url) from None
    if isinstance(result, bytes):
        return result
    raise result if isinstance(result, SourceError) else _translated(url, result)


def check_address(url: str) -> None:
    """Raises SourceError for an address that is not https, or carries a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise SourceError(
            url[:200], f"it is no address ({_words(error)})", "Give one like https://host/file.json"
        ) from None
    if parts.scheme != "https":
        raise SourceError(
            url[:200],
            f"{parts.scheme[:20]}: is not taken, only https: is",
            "Give an https address, or download it yourself",
        )
    if not host:
        raise SourceError(url[:200], "it names no host", "Give an address like https://host/file.json")
    if parts.username is not None or parts.password is not None:
        raise SourceError(f"https://{host}", "the address carries a name or password", "Give it without")


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to https only.

    A token goes along where host and port stay the same (the hub redirects renamed repositories so), and never to
    another host.
    """

    max_redirections = _REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_address(newurl)
        except SourceError as error:
            problem = f"it redirects to {newurl[:_WORDS]}: {error.problem}"
            raise SourceError(req.full_url[:200], problem, error.remedy) from None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if following is not None and token is not None and _origin(req.full_url) == _origin(newurl):
            following.add_unredirected_header("Authorization", token)
        return following


def _origin(url: str) -> tuple[str, str | None, int]:
    """Scheme, host and port of an address that was checked."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or 443


def _opener() -> urllib.request.OpenerDirector:
    """Of urllib's handlers those for https, its errors and redirects: none that opens files, ftp or plain http."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SecureRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _exchange(url: str, limit: int, token: str | None, deadline: float) -> bytes:
    # Compressed answers are refused below: a few bytes of gzip can stand for gigabytes.
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "flexsearch"})
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with _opener().open(request, timeout=_STALL) as response:
        announced = _announced(url, response.headers, limit)
        parts, size = [], 0
        while block := response.read1(64 * 1024):
            parts.append(block)
            size += len(block)
            if size > limit:
                raise SourceError(url[:200], f"it sends more than {limit} bytes", "Give the address of one schedule")
            if time.monotonic() > deadline:
                raise _too_slow(url)
    if announced is not None and size < announced:
        raise SourceError(url[:200], f"it broke off after {size} of {announced} bytes", "Try again later")
    return b"".join(parts)


def _announced(url: str, headers: Message, limit: int) -> int | None:
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise SourceError(url[:200], f"it answers in {encoding[:20]!r}, unasked", "Download the file yourself")
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdecimal()):
        return None
    if len(length) > 15 or int(length) > limit:
        raise SourceError(
            url[:200], f"it announces {length[:20]} bytes, more than {limit}", "Give the address of one schedule"
        )
    return int(length)


def _too_slow(url: str) -> SourceError:
    problem = f"it was not done after {SECONDS:g} s"
    return SourceError(url[:200], problem, "Try again later, or download the file yourself")


def _translated(url: str, error: BaseException) -> SourceError:
    place = url[:200]
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if 300 <= error.code < 400:
            return SourceError(place, f"its redirects lead nowhere (status {error.code})", "Check the address")
        return SourceError(place, f"it answers with status {error.code}", "Check the address")
    if isinstance(error, urllib.error.URLError):
        return SourceError(place, f"it cannot be reached ({_words(error.reason)})", "Check the address and the network")
    if isinstance(error, http.client.IncompleteRead):
        return SourceError(place, "it broke off in the middle", "Try again later")
    if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
        words = f"{type(error).__name__}: {_words(error)}"
        return SourceError(place, f"it does not answer as a web server does ({words})", "Check the address")
    raise error


def _words(error: object) -> str:
    return str(error)[:_WORDS]
