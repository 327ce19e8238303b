"""Kills, drains and upgrades replicas behind nginx and behind Envoy, under load, and counts the calls that fail.

Two replicas of the demo model, a balancer with docs/nginx.conf or docs/envoy.yaml before them, and `peregrine bench serve` over gRPC
and over TGI's events.

* A replica is killed with all its processes: no call fails but those that it had. Envoy ejects it.
* A replica is drained by SIGTERM, and another started in its place: no call fails.
* Another process takes over its addresses by --reuse-port: no call fails.
* A replica is drained by `peregrine ctl drain` until it has no calls, and undrained: no call fails, and it has calls again.
* Envoy sends calls to the replica that has the fewest.

Needs a release build of peregrine, and nginx on the PATH, which Debian's nginx-light has. Envoy comes from the package registry.
"""

import argparse
import contextlib
import http.client
import json
import pathlib
import subprocess
import tempfile
import time

from balancer_check.balancers import Envoy, Nginx, balancer
from balancer_check.replica import WAIT_S, Replica, wait_until
from peregrine_server import fail, program

BALANCERS = {"nginx": Nginx, "envoy": Envoy}
CALLS_PER_SECOND = 5


class Load:
    """Calls over gRPC and over TGI's events for some seconds."""

    def __init__(self, folder, front, seconds):
        self.files, self.processes = [], []
        for dialect, port in [("tgi", front.http), ("grpc", front.grpc)]:
            file = folder / f"load-{dialect}-{time.monotonic_ns()}.json"
            command = [program(), "bench", "serve", "--dialect", dialect, "--server", f"127.0.0.1:{port}"]
            command += ["--dataset", "64/50-400", "--num-prompts", str(CALLS_PER_SECOND * seconds)]
            command += ["--request-rate", str(CALLS_PER_SECOND), "--arrivals", "constant"]
            command += ["--num-warmups", "0", "--request-timeout", str(WAIT_S), "--json", str(file)]
            with (folder / f"load-{dialect}.log").open("a") as log:
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            self.files.append(file)

    def end(self):
        """Waits until all calls have ended, and returns how many were answered, how many failed, and why."""
        completed, failures = 0, []
        for process, file in zip(self.processes, self.files):
            process.wait(4 * WAIT_S)
            run = json.loads(file.read_text())
            completed += run["completed"]
            failures += run["failures"]
        return completed, sum(failure["count"] for failure in failures), failures


class Check:
    """What is done to the replicas behind one balancer. Strikes come when the load has run for a quarter of its time."""

    def __init__(self, folder, front, replicas, seconds):
        self.folder, self.front, self.replicas, self.seconds = folder, front, replicas, seconds
        self.wrong = []

    def struck(self, what, strike, allowed=lambda: 0):
        """Strikes under load. `allowed()` is how many calls may fail, asked when all have ended."""
        load = Load(self.folder, self.front, self.seconds)
        time.sleep(self.seconds / 4)
        strike()
        completed, failed, failures = load.end()
        most = allowed()
        print(f"{self.front.name}: {what}: {completed} calls answered, {failed} failed, {most} may", flush=True)
        if failed > most:
            self.wrong.append(f"{self.front.name}: {what}: {failures}")

    def killed(self):
        victim, at = self.replicas[0], []

        def strike():
            at.append(time.time())
            victim.kill()
            time.sleep(self.seconds / 4)
            victim.restart()

        self.struck("a replica killed", strike, lambda: self.front.calls_of(victim, at[0]))
        if isinstance(self.front, Envoy):
            ejections = self.front.ejections()
            print(f"Envoy: {ejections} ejections", flush=True)
            if not ejections:
                self.wrong.append("Envoy did not eject the replica that was killed")

    def ended(self):
        replica = self.replicas[1]

        def strike():
            replica.end()
            replica.restart()

        self.struck("a replica drained by SIGTERM, and started again", strike)

    def upgraded(self):
        self.struck("a replica upgraded by --reuse-port", self.replicas[0].upgrade)

    def drained_by_hand(self):
        replica = self.replicas[1]

        def strike():
            replica.control("drain")
            wait_until("a drained replica has no calls", lambda: replica.running() == 0)
            replica.control("undrain")

        self.struck("a replica drained by peregrine ctl, and undrained", strike)
        before = replica.requests()

        def has_calls():
            with contextlib.closing(stream(self.front.http)[0]):
                return replica.requests() > before

        wait_until("an undrained replica has calls", has_calls)


def stream(port):
    """A connection with a stream that has begun, and goes on for long."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 1500, "ignore_eos": True}}
    connection.request("POST", "/generate_stream", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.readline()
    return connection, answer


def least_requests(front, replicas):
    """Whether calls go to the replica that has the fewest: when one has lost its two, both of the next go to it."""
    wait_until("the replicas are idle", lambda: all(replica.running() == 0 for replica in replicas))
    with contextlib.ExitStack() as stack:
        streams, places = [], []
        for _ in range(4):
            before = [replica.running() for replica in replicas]
            streams.append(stream(front.http))
            stack.callback(streams[-1][0].close)
            after = [replica.running() for replica in replicas]
            places.append(next((i for i in range(2) if after[i] > before[i]), None))
        for (connection, answer), place in zip(streams, places):
            if place == 0:
                answer.close()
                connection.close()
        wait_until("the streams have ended", lambda: replicas[0].running() == 0)
        for _ in range(2):
            stack.callback(stream(front.http)[0].close)
        found = [replica.running() for replica in replicas]
    print(f"Envoy: four streams went to replicas {places}; without those of 0, two more made {found}", flush=True)
    return sorted(places, key=str) == [0, 0, 1, 1] and found == [2, 2]


def run(kind, folder, replicas, seconds):
    """All checks behind one balancer. Returns what was wrong."""
    with balancer(kind, folder, replicas) as front:
        check = Check(folder, front, replicas, seconds)
        if kind is Envoy and not least_requests(front, replicas):
            check.wrong.append("Envoy does not send calls to the replica with the fewest")
        for part in [check.killed, check.ended, check.upgraded, check.drained_by_hand]:
            part()
        if check.wrong:
            print((folder / "balancer.log").read_text()[-4000:])
        return check.wrong


def main(arguments):
    parser = argparse.ArgumentParser(prog="balancer-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BALANCERS, help="this one alone")
    parser.add_argument("--seconds", type=int, default=20, help="how long each part has load; 20")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, replicas, wrong = pathlib.Path(name), [], []
        for _ in range(2):
            replicas.append(Replica(folder))
            stack.callback(replicas[-1].close)
        for kind in [BALANCERS[given.only]] if given.only else BALANCERS.values():
            wrong += run(kind, folder / kind.name, replicas, given.seconds)
        if wrong:
            fail("\n".join(wrong))
