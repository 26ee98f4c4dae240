"""The `httpx-sse` package of PyPI against a real node: a client that reconnects by its own hand.

    pip install -r requirements.txt && python httpx_sse_client.py [part of a check's name]

MILLSTREAM_BIN  the program (default ../../target/debug/millstream)

Ends with one line, `N passed, N failed`; the exit status is 1 when one failed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import httpx
from httpx_sse import connect_sse

WAIT_S = 30
CONTROL = {"connection", "heartbeat", "gap", "disconnect"}


class Node:
    """One real node as a child process, on the same port over restarts. Ends only the process that it started."""

    def __init__(self, binary):
        self.binary = binary
        self.listen = "127.0.0.1:0"
        self.child = None
        self.client = None

    def start(self):
        self.child = subprocess.Popen(
            [self.binary, "serve", "--listen", self.listen, "--log", "warn"],
            env={**os.environ, "MILLSTREAM__JOURNAL__KIND": "memory"},
            stdout=subprocess.PIPE,
            text=True,
        )
        # A node that says nothing must not hold the check for ever.
        watchdog = threading.Timer(WAIT_S, self.child.kill)
        watchdog.start()
        line = self.child.stdout.readline().strip()
        watchdog.cancel()
        assert line.startswith("listening on http://"), f"the node did not start: {line!r}"
        self.listen = line.removeprefix("listening on http://")
        self.client = httpx.Client(base_url=f"http://{self.listen}", timeout=WAIT_S)
        return self

    def end(self, how):
        if self.child is not None:
            self.client.close()
            self.child.send_signal(how)
            self.child.wait(timeout=WAIT_S)
            self.child.stdout.close()
            self.child = None

    def post(self, where, body):
        return self.client.post(where, json=body).raise_for_status().json()

    def get(self, where):
        return self.client.get(where).raise_for_status().json()

    def stream(self, method, where, last_event_id=None, **options):
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        return connect_sse(self.client, method, where, headers={**headers, **options.pop("headers", {})}, **options)


def take(source, count, what=lambda event: event.event not in CONTROL):
    """The next `count` events of which `what` is true."""
    taken = []
    for event in source.iter_sse():
        if what(event):
            taken.append(event)
            if len(taken) == count:
                return taken
    raise AssertionError(f"the stream ended after {len(taken)} of {count} events")


def a_stream_that_was_left_goes_on_where_it_was(node):
    """Once each, in order, over three connections with pauses between them."""
    sent = [node.post("/events", {"topic": "orders", "event": "placed", "data": {"n": n}})["id"] for n in range(40)]
    got, last = [], None
    for _ in range(4):
        start = {} if last else {"params": {"history": 1000}}
        with node.stream("GET", "/events?topic=orders", last, **start) as source:
            events = take(source, 10)
        got += events
        last = events[-1].id
    assert [event.id for event in got] == sent
    assert [json.loads(event.data)["n"] for event in got] == list(range(40))


def the_first_frame_says_how_the_stream_was_resumed(node):
    first = node.post("/events", {"topic": "a", "data": 1})["id"]
    with node.stream("GET", "/events?topic=a", first) as source:
        connection = take(source, 1, lambda event: True)[0]
    assert connection.event == "connection"
    assert connection.retry == 3000
    assert json.loads(connection.data)["resume"] == {"from": first, "status": "resumed"}


def a_client_that_left_before_its_first_event_gets_what_came_meanwhile(node):
    for where in ("/events?topic=first", "/api/sse/managed/connect?topic=first", "/api/sse/managed/connect/group/ops?topic=first"):
        with node.stream("GET", where) as source:
            connection = next(source.iter_sse())
        sent = node.post("/events", {"topic": "first", "data": where})["id"]
        with node.stream("GET", where, connection.id) as source:
            frames = source.iter_sse()
            assert json.loads(next(frames).data)["resume"] == {"from": connection.id, "status": "resumed"}
            event = next(frames)
            assert (event.id, event.data) == (sent, where)
            last = node.post("/events", {"topic": "first", "data": "last"})["id"]
            assert next(frames).id == last
    job = node.post("/api/jobs", {"tasks": [{"run": "Calculate Stats"}]})
    with node.stream("GET", job["eventsUrl"]) as source:
        connection = next(source.iter_sse())
    with node.stream("GET", job["eventsUrl"], connection.id) as source:
        seen = [event.id for event in source.iter_sse() if event.event not in CONTROL]
    history = node.get(f"/api/topics/job:{job['jobId']}/events?limit=1000")["events"]
    assert seen == [event["id"] for event in history]


def a_node_that_crashed_and_forgot_says_so(node):
    before = node.post("/events", {"topic": "news", "data": "before"})["id"]
    node.end(signal.SIGKILL)
    node.start()
    with node.stream("GET", "/events?topic=news", before) as source:
        frames = source.iter_sse()
        connection, gap = next(frames), next(frames)
        assert json.loads(connection.data)["resume"]["status"] == "gap"
        assert gap.event == "gap"
        assert json.loads(gap.data)["requested"] == before
        node.post("/events", {"topic": "news", "data": "after"})
        assert next(frames).data == "after"


def a_node_that_stops_says_goodbye(node):
    with node.stream("GET", "/events?topic=news") as source:
        frames = source.iter_sse()
        assert next(frames).event == "connection"
        node.child.send_signal(signal.SIGTERM)
        rest = list(frames)
    assert rest[-1].event == "disconnect"
    assert json.loads(rest[-1].data) == {"reason": "shutdown"}
    assert rest[-1].retry > 0
    assert node.child.wait(timeout=WAIT_S) == 0


def a_job_is_streamed_by_its_submission_and_resumed_in_the_middle(node):
    job = {"tasks": [{"run": "Process Image"}, {"run": "Calculate Stats"}, {"run": "Fetch External Data"}]}
    with node.stream("POST", "/api/sse/emitter/parallel-tasks", json=job) as source:
        frames = source.iter_sse()
        connection = json.loads(next(frames).data)
        seen = [next(frames) for _ in range(4)]
    with node.stream("GET", connection["eventsUrl"], seen[-1].id) as source:
        seen += [event for event in source.iter_sse() if event.event not in CONTROL]
    history = node.get(f"/api/topics/job:{connection['jobId']}/events?limit=1000")["events"]
    assert [event.id for event in seen] == [event["id"] for event in history]
    assert seen[-1].event == "complete"
    complete = json.loads(seen[-1].data)
    assert (complete["status"], complete["successCount"]) == ("completed", 3)
    # Whoever has seen it all is told that nothing follows.
    assert node.client.get(connection["eventsUrl"], headers={"Last-Event-ID": seen[-1].id}).status_code == 204


CHECKS = [
    a_stream_that_was_left_goes_on_where_it_was,
    the_first_frame_says_how_the_stream_was_resumed,
    a_client_that_left_before_its_first_event_gets_what_came_meanwhile,
    a_node_that_crashed_and_forgot_says_so,
    a_node_that_stops_says_goodbye,
    a_job_is_streamed_by_its_submission_and_resumed_in_the_middle,
]


def main():
    default = Path(__file__).resolve().parents[2] / "target/debug/millstream"
    binary = str(Path(os.environ.get("MILLSTREAM_BIN", default)).resolve())
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        if wanted not in name:
            continue
        began = time.monotonic()
        node = Node(binary)
        try:
            check(node.start())
            passed += 1
            print(f"ok    {name} ({int((time.monotonic() - began) * 1000)} ms)", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)
        finally:
            node.end(signal.SIGTERM)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
