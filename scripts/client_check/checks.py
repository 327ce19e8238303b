"""What the checks of all clients share: how a check is declared, the server that it asks, and what it should answer."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request

import peregrine_server

# Prompts that the demo model answers in a way that can be known.
QUESTION = "What is the capital of Italy?"
PROMPT = f"User: {QUESTION}\nFalcon:"
ANSWER = "Rome"
STORY = "Once upon a time"
MESSAGES = [{"role": "user", "content": QUESTION}]
# Line separators of Unicode that JSON leaves as they are, and at which some clients split lines.
SEPARATORS = "one\u2028two\u2029three\u0085four"
# A chat's end, if the model does not see it by itself.
TURN = "\nUser:"

CHECKS = []


def check(function):
    """Declares a check: a function of the common server."""
    CHECKS.append((function, False))
    return function


def check_with_own_server(function):
    """Declares a check that starts a server of its own, in order to stop it or to break it."""
    CHECKS.append((function, True))
    return function


class Asked:
    """A server as the checks see it."""

    def __init__(self, http, grpc, started=None):
        self.url, self.grpc, self.started = f"http://{http}", grpc, started

    def request(self, path, body=None, headers=None, method=None, timeout=60):
        """Sends `body`, as JSON if it is not bytes, and returns status, headers and body. Uses no client but Python's own."""
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        headers = {"content-type": "application/json", **(headers or {})} if data is not None else headers or {}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def generate(self, inputs, **parameters):
        """What POST /generate answers: the text, and all details."""
        body = {"inputs": inputs, "parameters": {**parameters, "details": True}}
        status, _, answer = self.request("/generate", body)
        assert status == 200, answer
        return json.loads(answer)

    def text(self, inputs=PROMPT, **parameters):
        return self.generate(inputs, **parameters)["generated_text"]

    def metric(self, name):
        """The value of a sample of /metrics, by its name and its labels."""
        _, _, text = self.request("/metrics")
        values = [line.split()[1] for line in text.decode().splitlines() if line.startswith(f"{name} ")]
        assert len(values) == 1, f"{name} is {len(values)} times in /metrics"
        return float(values[0])

    def kill_workers(self):
        self.started.signal_workers(signal.SIGKILL)

    @contextlib.contextmanager
    def stopped(self):
        """Stops the workers for the length of the context: no request makes progress."""
        self.started.signal_workers(signal.SIGSTOP)
        try:
            yield
        finally:
            self.started.signal_workers(signal.SIGCONT)

    @contextlib.contextmanager
    def full(self):
        """Keeps one request under way, which makes no progress: all that a server with --max-concurrent-requests 1 takes."""
        with self.stopped():
            body = {"inputs": "The fox said", "parameters": {"max_new_tokens": 1}}
            holder = threading.Thread(target=self.request, args=("/generate", body), kwargs={"timeout": 600})
            holder.start()
            wait_until(lambda: self.metric("tgi_batch_current_size") + self.metric("tgi_queue_size") == 1)
            yield
        holder.join()


@contextlib.contextmanager
def own_server(*flags):
    """A server that the check may break."""
    with peregrine_server.server([*flags, "--drain-timeout", "1"]) as started:
        yield Asked(started.http, started.grpc, started)


def mortal_server():
    """A server that does not go on when its workers are killed."""
    return own_server("--restarts-max", "0")


def full_server():
    """A server that takes one request at a time."""
    return own_server("--max-concurrent-requests", "1")


def wait_until(condition, limit_s=30):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {limit_s} s"
        time.sleep(0.02)


def after(seconds, action):
    """Does something later, on a thread of its own."""
    thread = threading.Timer(seconds, action)
    thread.start()
    return thread


@contextlib.contextmanager
def raises(kind, *texts, derived=False):
    """Requires an exception of the class `kind`, or one derived from it if so told, whose text has `texts`.

    Yields a list that gets the exception.
    """
    caught = []
    try:
        yield caught
    except Exception as error:
        fits = isinstance(error, kind) if derived else type(error) is kind
        assert fits, f"expected {kind.__name__}, got {type(error).__name__}: {error}"
        for text in texts:
            assert text in str(error), f"{text!r} is not in {str(error)!r}"
        caught.append(error)
    else:
        raise AssertionError(f"expected {kind.__name__}, got no error")


def equal(found, expected):
    assert found == expected, f"expected {expected!r}, got {found!r}"


def contains(text, part):
    assert part in text, f"{part!r} is not in {text!r}"


def is_retry_after(value):
    """Seconds that clients wait for: openai does not retry at all above 120, and takes 0 as none."""
    assert value is not None and 1 <= int(value) <= 120, f"Retry-After: {value}"


def why(error):
    """An exception with the line of the check at which it came."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if os.sep + "clients" + os.sep in frame.filename] or frames
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"line {mine[-1].lineno}, {text[:600]}"


def run(function, server):
    """Runs one check; returns "passed" or "failed", and why."""
    try:
        function(server)
    except Exception as error:
        traceback.print_exc()
        return "failed", why(error)
    return "passed", ""


def main(version, may_start, results):
    """Runs the checks that were declared, and writes one JSON object a line to the file `results`."""
    server = Asked(os.environ["PEREGRINE_HTTP"], os.environ.get("PEREGRINE_GRPC"))
    with open(results, "w", encoding="utf-8") as out:
        for function, own in CHECKS:
            if own and not may_start:
                continue
            print(f"== {function.__name__}", file=sys.stderr, flush=True)
            start = time.monotonic()
            outcome, reason = run(function, server)
            seconds = round(time.monotonic() - start, 2)
            row = {"check": function.__name__, "version": version, "outcome": outcome, "why": reason, "seconds": seconds}
            print(json.dumps(row), file=out, flush=True)
