"""An https server on loopback that answers as told, byte by byte: also as no decent server would."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

CERTIFICATE = Path(__file__).parent / "loopback.pem"  # with its key; clients trust it by SSL_CERT_FILE
Answer = bytes | Callable[[socket.socket, "Server"], None]


class Server(socketserver.ThreadingTCPServer):
    """`answers` by path: bytes to send whole, or what to do with the connection."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.answers = dict(answers)
        self.asked: list[str] = []  # request lines and headers, one text a request
        self.closing = threading.Event()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(CERTIFICATE)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        with contextlib.suppress(OSError), self.server.tls.wrap_socket(self.request, server_side=True) as connection:
            asked = b""
            while b"\r\n\r\n" not in asked and (block := connection.recv(4096)):
                asked += block
            self.server.asked.append(asked.decode("latin-1"))
            path = asked.split(b" ")[1].decode("latin-1").split("?")[0]
            answer = self.server.answers.get(path, status(404, b"nothing here"))
            if isinstance(answer, bytes):
                connection.sendall(answer)
            else:
                answer(connection, self.server)


def status(code: int, body: bytes = b"", *headers: str) -> bytes:
    """An orderly answer."""
    lines = [f"HTTP/1.1 {code} Said", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def endless(head: bytes, block: bytes, pause: float = 0.0) -> Answer:
    """`head`, then `block` again and again, until the other side or the test has had enough."""

    def answer(connection: socket.socket, server: Server) -> None:
        connection.sendall(head)
        while not server.closing.wait(pause):
            connection.sendall(block)

    return answer


@contextlib.contextmanager
def serving(answers: Mapping[str, Answer]) -> Iterator[Server]:
    with Server(answers) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
