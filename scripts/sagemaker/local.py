"""Where the notebook runs its endpoints: on this machine, each one a `peregrine serve --sagemaker` with the demo model.

A server on loopback answers what the notebook asks of SageMaker's control plane. What the endpoints themselves are asked goes straight
to Peregrine, which speaks SageMaker's runtime API. boto3 and SageMaker's SDK find both by the variables that AWS_ENDPOINT_URL_… are.
"""

import atexit
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

import archive  # noqa: E402
from peregrine_server import program  # noqa: E402

REASON_CHARS_MAX = 1000
END_LIMIT_S = 60


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class Container:
    """A process that runs as SageMaker would run the image: with `serve`, its variables, and the model unpacked."""

    def __init__(self, container, port):
        self.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self.folder.name)
        uri = container["ModelDataSource"]["S3DataSource"]["S3Uri"]
        with tarfile.open(uri.removeprefix("file://")) as tar:
            tar.extractall(folder / "model", filter="data")
        # Nobody but root has /opt/ml/model here.
        variables = {name: value.replace("/opt/ml/model", str(folder / "model")) for name, value in container["Environment"].items()}
        self.probe = f"http://127.0.0.1:{free_port()}"
        command = [program(), "serve", "--sagemaker", "--http-addr", f"127.0.0.1:{port}", "--grpc-addr", "127.0.0.1:0"]
        command += ["--metrics-addr", self.probe.removeprefix("http://"), "--reuse-port", "--threads-per-rank", "1"]
        self.log = folder / "log"
        with self.log.open("w") as log:
            # A Jupyter kernel asks for colours, which a log has no use for.
            kept = {name: value for name, value in os.environ.items() if not name.startswith("CLICOLOR")}
            self.process = subprocess.Popen(command, env={**kept, **variables}, stderr=log)

    def status(self):
        """What SageMaker says of an endpoint of this container, and why it failed."""
        if self.process.poll() is not None:
            log = self.log.read_text()
            return "Failed", log[max(log.find("error:"), 0) :][:REASON_CHARS_MAX].strip()
        try:
            urllib.request.urlopen(f"{self.probe}/readyz", timeout=END_LIMIT_S).close()
        except OSError:
            return "Creating", None
        return "InService", None

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(END_LIMIT_S)
        self.folder.cleanup()


class Endpoint:
    """An endpoint: the container that answers, and the one that is to take its place."""

    def __init__(self, name, config, container):
        self.name, self.config, self.created = name, config, time.time()
        self.current, self.next = container, None

    def describe(self):
        status, reason = (self.next or self.current).status()
        if self.next and status == "InService":
            self.current.end()
            self.current, self.next = self.next, None
        elif self.next and status == "Creating":
            status = "Updating"
        told = {"EndpointName": self.name, "EndpointArn": arn("endpoint", self.name), "EndpointConfigName": self.config}
        told |= {"EndpointStatus": status, "CreationTime": self.created, "LastModifiedTime": self.created}
        return told | ({"FailureReason": reason} if reason else {})

    def end(self):
        for container in filter(None, [self.current, self.next]):
            container.end()


def arn(kind, name):
    return f"arn:aws:sagemaker:us-east-1:000000000000:{kind}/{name}"


class ControlPlane:
    """The actions of SageMaker that the notebook takes. An unknown name is an error, as there."""

    def __init__(self, port):
        self.port, self.models, self.configs, self.endpoints = port, {}, {}, {}

    def container(self, config):
        (variant,) = self.configs[config]["ProductionVariants"]
        return Container(self.models[variant["ModelName"]]["PrimaryContainer"], self.port)

    def create_model(self, request):
        self.models[request["ModelName"]] = request
        return {"ModelArn": arn("model", request["ModelName"])}

    def create_endpoint_config(self, request):
        self.configs[request["EndpointConfigName"]] = request
        return {"EndpointConfigArn": arn("endpoint-config", request["EndpointConfigName"])}

    def create_endpoint(self, request):
        name, config = request["EndpointName"], request["EndpointConfigName"]
        self.endpoints[name] = Endpoint(name, config, self.container(config))
        return {"EndpointArn": arn("endpoint", name)}

    def update_endpoint(self, request):
        endpoint = self.endpoints[request["EndpointName"]]
        endpoint.config = request["EndpointConfigName"]
        endpoint.next = self.container(endpoint.config)
        return {"EndpointArn": arn("endpoint", endpoint.name)}

    def describe_endpoint(self, request):
        return self.endpoints[request["EndpointName"]].describe()

    def delete_endpoint(self, request):
        self.endpoints.pop(request["EndpointName"]).end()
        return {}

    def delete_endpoint_config(self, request):
        del self.configs[request["EndpointConfigName"]]
        return {}

    def delete_model(self, request):
        del self.models[request["ModelName"]]
        return {}

    def end(self):
        for endpoint in self.endpoints.values():
            endpoint.end()


ACTIONS = {
    f"SageMaker.{''.join(word.title() for word in name.split('_'))}": name
    for name in vars(ControlPlane)
    if name.startswith(("create_", "update_", "describe_", "delete_"))
}


def handler(control):
    class Handler(http.server.BaseHTTPRequestHandler):
        """The protocol of the control plane: the action in a header, JSON in and out."""

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            action = ACTIONS.get(self.headers["x-amz-target"])
            try:
                status, answer = 200, getattr(control, action)(body)
            except (KeyError, TypeError) as error:
                status, answer = 400, {"__type": "ValidationException", "message": f"{self.headers['x-amz-target']}: {error!r}"}
            answer = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    return Handler


class Site:
    """What the notebook needs to know of the place. Making one starts the control plane; its processes end with Python."""

    image = "peregrine:local"
    role = "arn:aws:iam::000000000000:role/local"
    poll_s = 1

    def __init__(self):
        folder = tempfile.TemporaryDirectory()
        atexit.register(folder.cleanup)
        self.model_uri = f"file://{folder.name}/model.tar.gz"
        archive.make(ROOT / "crates/runtime/falcon-demo", self.model_uri.removeprefix("file://"))
        self.control = ControlPlane(free_port())
        atexit.register(self.control.end)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(self.control))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ |= {
            "AWS_ENDPOINT_URL_SAGEMAKER": f"http://127.0.0.1:{server.server_port}",
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": f"http://127.0.0.1:{self.control.port}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


site = Site()
