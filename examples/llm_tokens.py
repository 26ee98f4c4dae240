#!/usr/bin/env python3
"""A stand-in for a language model that streams its answer, as OpenAI's chat completions do.

    python3 examples/llm_tokens.py [--port 9000] [--token demo-token] [--delay-ms 50]

POST /v1/chat/completions with `Authorization: Bearer TOKEN` and {"model", "messages": [...], "stream": true} is answered
with one event per token, `data: {...}`, and at the end with `data: [DONE]`. It repeats what it is told, word by word.
Nothing but the standard library; it listens on this machine only.
"""

import argparse
import hmac
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "/v1/chat/completions"
BODY_MAX = 1 << 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one")
    parser.add_argument("--token", default="demo-token", help="who does not send it gets 401")
    parser.add_argument("--delay-ms", type=int, default=50, help="between two tokens")
    return parser.parse_args()


def tokens(request):
    """What the model says: the last message, with what stands before each word as part of the word."""
    words = request["messages"][-1]["content"].split(" ")
    return [word if number == 0 else f" {word}" for number, word in enumerate(words)]


def piece(model, delta, finish_reason=None):
    """One event's data."""
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        if self.path != PATH:
            return self.refuse(404, f"there is only {PATH}")
        sent = self.headers.get("Authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {self.server.token}".encode()):
            return self.refuse(401, "send `Authorization: Bearer TOKEN` with the token of this server")
        try:
            length = int(self.headers.get("Content-Length", ""))
            request = json.loads(self.rfile.read(length)) if 0 < length <= BODY_MAX else None
            said, model = tokens(request), str(request["model"])
        except (ValueError, LookupError, TypeError, AttributeError):
            return self.refuse(400, 'the body must be {"model": "...", "messages": [{"role", "content"}], "stream": true}')
        if request.get("stream") is not True:
            return self.refuse(400, "this server only streams: send `stream: true`")
        self.stream(model, said)

    def stream(self, model, said):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.event(piece(model, {"role": "assistant", "content": ""}))
            for token in said:
                time.sleep(self.server.delay)
                self.event(piece(model, {"content": token}))
            self.event(piece(model, {}, "stop"))
            self.chunk(b"data: [DONE]\n\n")
            self.chunk(b"")
        except (BrokenPipeError, ConnectionResetError):
            # The reader has what it wants.
            self.close_connection = True

    def event(self, data):
        self.chunk(f"data: {json.dumps(data)}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def refuse(self, status, message):
        body = json.dumps({"error": {"message": message, "code": status}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        # What of the request was not read must not be taken for another one.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    asked = arguments()
    server = ThreadingHTTPServer(("127.0.0.1", asked.port), Handler)
    server.daemon_threads = True
    server.token, server.delay = asked.token, asked.delay_ms / 1000
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
