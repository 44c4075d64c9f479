"""An OpenAI endpoint for tests: log-probabilities are a function of the tokens; it can fail, change and die.

    python fake_openai.py CONTEXT [--die-after N] [--fail-first N] [--shift X] [--key KEY]

Prints its port. ``--die-after`` ends the process, as kill -9 would, at the N+1st completion.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def log_probability(token: int, place: int, shift: float = 0.0) -> float:
    """What the model thinks of a token at a place."""
    return -0.05 - (token * 7 + place * 3) % 101 / 50 - shift


class Handler(BaseHTTPRequestHandler):
    settings: argparse.Namespace
    lock = threading.Lock()
    completions = 0

    def log_message(self, *_arguments: Any) -> None:
        return

    def _reply(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        if self.settings.variants and self.command == "POST":
            self.send_header("X-Raymill-Variant", self.settings.variants.split(",")[(Handler.completions - 1) % 3])
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        told = {} if self.settings.silent else {"max_model_len": self.settings.context}
        self._reply(200, {"data": [{"id": "tiny", **told}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.settings.key and self.headers.get("Authorization") != f"Bearer {self.settings.key}":
            self._reply(401, {"error": "who are you?"})
            return
        with self.lock:
            Handler.completions += 1
            number = Handler.completions
        if self.settings.die_after is not None and number > self.settings.die_after:
            os._exit(9)
        if number <= self.settings.fail_first:
            self._reply(503, {"error": "not yet"})
            return
        lengths = [len(prompt) for prompt in body["prompt"] if isinstance(prompt, list)]
        if any(length + body["max_tokens"] > self.settings.context for length in lengths):
            self._reply(400, {"error": "longer than the context"})
            return
        echo = body.get("echo", False)
        self._reply(200, {"choices": [self._choice(index, each, echo) for index, each in enumerate(body["prompt"])]})

    def _choice(self, index: int, prompt: Any, echo: bool) -> dict[str, Any]:
        if not echo:
            unit = "letters" if isinstance(prompt, str) else f"tokens to {prompt[-1]}"
            return {"index": index, "text": f" {len(prompt)} {unit}.\nand more"}
        values = [log_probability(token, place, self.settings.shift) for place, token in enumerate(prompt)]
        best = [value if token % 3 == 0 else value + 0.5 for value, token in zip(values, prompt, strict=True)]
        told = {
            "token_logprobs": [None, *values[1:], -0.1],
            "top_logprobs": [None, *({"best": value} for value in best[1:]), {"next": -0.1}],
        }
        return {"index": index, "text": "", "logprobs": told}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("context", type=int)
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--fail-first", type=int, default=0)
    parser.add_argument("--shift", type=float, default=0.0)
    parser.add_argument("--key")
    parser.add_argument("--silent", action="store_true", help="tells nobody how long a prompt may be")
    parser.add_argument("--variants", help="three names; each completion is answered by the next one")
    parser.add_argument("--port", type=int, default=0)
    Handler.settings = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", Handler.settings.port), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
