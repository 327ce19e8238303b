#!/usr/bin/env bash
# Guess: HF_HUB_OFFLINE=1 keeps huggingface_hub from asking the hub, and nothing else.
# So it is: it also keeps InferenceClient from any server, whatever its URL. A request to one on 127.0.0.1 is refused with
# OfflineModeIsEnabled before a byte is sent, by client objects made for a URL of one's own, too, and by all that is built on them,
# as langchain-huggingface. HF_ENDPOINT, pointed at a port where nobody listens, keeps the hub away and leaves such URLs alone.
# What it touches: machines without the internet, where the variable is set so that tokenizers load from their folders at once.
# Seen with huggingface_hub 2.4.0 and 1.33.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 2.4.0 1.33.0; do
    "$folder/venv/bin/pip" install --quiet huggingface_hub==$version
    for variable in HF_ENDPOINT=http://127.0.0.1:9 HF_HUB_OFFLINE=1; do
        env HF_HOME="$folder/home" "$variable" "$folder/venv/bin/python" - "$variable" <<'PYTHON'
import http.server
import sys
import threading

import huggingface_hub
from huggingface_hub.errors import OfflineModeIsEnabled

asked = []


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(self.path)
        body = b'[{"generated_text": "an answer"}]'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
try:
    outcome = huggingface_hub.InferenceClient(f"http://127.0.0.1:{server.server_port}").text_generation("a prompt")
except OfflineModeIsEnabled as error:
    outcome = f"{type(error).__name__}: {error}"
print(huggingface_hub.__version__, sys.argv[1], "gives", outcome, "and the server was asked", len(asked), "times")
if sys.argv[1] == "HF_HUB_OFFLINE=1":
    assert outcome.startswith("OfflineModeIsEnabled") and not asked, "changed: the server was asked"
else:
    assert (outcome, len(asked)) == ("an answer", 1), "changed: the server was not asked"
PYTHON
    done
done
echo "as described"
