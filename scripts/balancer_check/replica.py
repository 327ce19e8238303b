"""Replicas of the demo model, on ports of their own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from peregrine_server import fail, program

# What may take so long has failed.
WAIT_S = 60


def free_ports(count):
    """Ports on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def wait_until(what, holds):
    """Waits until `holds()`, which may fail to connect before."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if holds():
                return
        time.sleep(0.05)
    fail(f"{what}: not within {WAIT_S} s")


def get(url):
    """The body at a URL of this machine."""
    with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
        return answer.read().decode()


class Replica:
    """A server on ports of its own, in a process group of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.http, self.grpc = free_ports(2)
        self.process = self.begin()
        wait_until("a replica serves", lambda: get(f"http://127.0.0.1:{self.http}/health") is not None)

    def begin(self, *flags):
        """Starts a process at the replica's addresses."""
        command = [program(), "serve", "--tensor-parallel", "2", "--threads-per-rank", "1", "--reuse-port"]
        command += ["--http-addr", f"127.0.0.1:{self.http}", "--grpc-addr", f"127.0.0.1:{self.grpc}", *flags]
        with (self.folder / f"replica-{self.http}.log").open("a") as log:
            return subprocess.Popen(command, stderr=log, start_new_session=True)

    def restart(self):
        """Starts it where it has ended, and waits until it serves."""
        self.process = self.begin()
        wait_until("a replica serves", lambda: get(f"http://127.0.0.1:{self.http}/health") is not None)

    def kill(self):
        """Kills all its processes; those of its workers end by themselves where they have a group of their own."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)

    def end(self):
        """Has it finish what it has, and end by SIGTERM."""
        end(self.process)

    def upgrade(self):
        """Has another process take over its addresses, and ends the one before."""
        before, (port,) = self.process, free_ports(1)
        self.process = self.begin("--metrics-addr", f"127.0.0.1:{port}")
        # The shared addresses may still be answered by the one before.
        wait_until("the new process serves", lambda: get(f"http://127.0.0.1:{port}/readyz") is not None)
        end(before)

    def control(self, action):
        """What `peregrine ctl` answers, as an object."""
        command = [program(), "ctl", action, "--json", "--server", f"127.0.0.1:{self.grpc}"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S).stdout)

    def running(self):
        """How many sequences it has, those that wait included."""
        load = self.control("status")["load"]
        return load["running"] + load["waiting"]

    def requests(self):
        """How many requests to generate it has had."""
        return int(re.search(r"^tgi_request_count (\d+)$", get(f"http://127.0.0.1:{self.http}/metrics"), re.MULTILINE)[1])

    def close(self):
        """Ends it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def end(process):
    process.terminate()
    if code := process.wait(WAIT_S):
        fail(f"a replica that was drained has ended with exit code {code}")
