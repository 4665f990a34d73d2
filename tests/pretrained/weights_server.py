"""A server of one file with faults on request, which records what it receives."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

PAGE = b"<!doctype html><title>Sign in</title>" * 20


class WeightsServer:
    """Serves `content` under any path; request n gets `faults[n]`, later ones none.

    Faults: "truncate" disconnects and "stall" hangs after half of the response; "nothing": no response at all;
    "redirect": to another path of this server; "circle": redirects to itself; "lie": other bytes; "html": a web page;
    "disguised": a web page with the content type of a file; "endless": more than requested, without a length;
    "shifted": another range than requested; a number: that status.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.mark: dict[str, str] = {"ETag": '"v1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        self.ranges = True
        self.heeds_if_range = True
        self.faults: list[str] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent: list[int] = []
        self._released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/release/weights.bin"

    def __enter__(self) -> WeightsServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()

    def asked(self, header: str) -> list[str | None]:
        """Value of a header in each request."""
        return [headers.get(header) for _, headers in self.requests]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                fault = server.faults.pop(0) if server.faults else ""
                server.requests.append((self.path, dict(self.headers)))
                server.sent.append(0)
                server._answer(self, fault, len(server.sent) - 1)

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler, fault: str, number: int) -> None:
        if fault == "nothing":
            self._released.wait(600)
        elif fault in ("redirect", "circle"):
            self.faults[:0] = ["circle"] if fault == "circle" else []
            _head(request, 302, {"Location": "/elsewhere/blob?signature=1", "Content-Length": "0"})
        elif fault.isdigit():
            _head(request, int(fault), {"Content-Type": "text/html", "Content-Length": str(len(PAGE))})
            request.wfile.write(PAGE)
        elif fault in ("html", "disguised"):
            kind = "text/html; charset=utf-8" if fault == "html" else "application/octet-stream"
            _head(request, 200, {"Content-Type": kind, "Content-Length": str(len(PAGE))})
            request.wfile.write(PAGE)
        else:
            self._file(request, fault, number)

    def _file(self, request: BaseHTTPRequestHandler, fault: str, number: int) -> None:
        wanted, same = request.headers.get("Range"), request.headers.get("If-Range") in self.mark.values()
        start = 0
        if wanted and self.ranges and (same or not self.heeds_if_range):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content):
            _head(request, 416, {"Content-Range": f"bytes */{len(self.content)}", "Content-Length": "0"})
            return
        content = bytes(255 - byte for byte in self.content) if fault == "lie" else self.content
        body = content[start:]
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body)), **self.mark}
        if fault == "endless":
            del headers["Content-Length"]
            body = 3 * body
        if start or fault == "shifted":
            first = start + 1 if fault == "shifted" else start
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        _head(request, 206 if "Content-Range" in headers else 200, headers)
        if fault in ("truncate", "stall"):
            body = body[: len(body) // 2]
        request.wfile.write(body)
        request.wfile.flush()
        self.sent[number] = len(body)
        if fault == "stall":
            self._released.wait(600)


def _head(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
