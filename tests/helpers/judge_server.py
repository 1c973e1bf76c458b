"""A real HTTP server on the loopback address that speaks OpenAI's chat completions and answers by a script."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Say:
    """The server's reply to one request: by default a chat completion with ``text``."""

    text: str = ""
    logprobs: list[dict] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # instead of a completion
    stall: float = 0.0  # seconds before it answers
    trickle: bool = False  # the body comes byte by byte, all of it after seconds
    cut: bool = False  # the body ends halfway


Script = Callable[[dict, int], Say]  # the request's body, and how many requests there were before it


class JudgeServer:
    """Server in threads of its own, for the time of a ``with`` block. ``requests`` are the received bodies, in order."""

    def __init__(self, script: Script):
        self.script = script
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "JudgeServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append(body | {"path": self.path})
                    server.headers.append({name.lower(): value for name, value in self.headers.items()})
                    server.times.append(time.monotonic())
                say = server.script(body, number)
                time.sleep(say.stall)
                self._send(say, say.body if say.body is not None else completion(say))

            def _send(self, say: Say, content: bytes) -> None:
                try:
                    self.send_response(say.status)
                    for name, value in say.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    for part in map(bytes, zip(content)) if say.trickle else [content]:
                        self.wfile.write(part[: len(content) // 2] if say.cut else part)
                        time.sleep(0.05 * say.trickle)
                except (BrokenPipeError, ConnectionResetError):  # the client no longer waits
                    pass
                self.close_connection = say.cut

            def log_message(self, *_):
                pass

        return Handler


def completion(say: Say) -> bytes:
    """Return a chat completion, with 100 tokens read and 10 written."""
    choice = {"index": 0, "message": {"role": "assistant", "content": say.text}, "finish_reason": "stop"}
    if say.logprobs is not None:
        choice["logprobs"] = {"content": say.logprobs}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def token(text: str, **alternatives: float) -> dict:
    """Return a token as the endpoint lists it; alternatives are named ``_1`` for the token ``1``."""
    top = [{"token": name.strip("_"), "logprob": value} for name, value in alternatives.items()]
    return {"token": text, "logprob": 0.0, "bytes": list(text.encode()), "top_logprobs": top}
