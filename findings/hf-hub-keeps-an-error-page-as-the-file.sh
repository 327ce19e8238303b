#!/usr/bin/env bash
# Guess: a download by crate hf-hub fails where the server that has the file answers with an error, and goes on where a connection was cut.
# So it is: it reads the status of its HEAD, and not that of the GET behind it. A 403 of the CDN (a signature that has run out) or a 404
# succeeds, and the page that came with it lies in the cache as the file, under the file's hash, where Python's
# huggingface_hub takes it for the file, too. A cut is an error, and the next call begins at the first byte: what had come is overwritten.
# What it touches: programs that download models by it must hold each file against its ETag, and resume by themselves.
# Seen with hf-hub 1.0.0. It takes some minutes: the crate brings 220 others.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server"; rm -rf "$folder"' EXIT
mkdir -p "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
hf-hub = "=1.0.0"
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }

[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
#[tokio::main]
async fn main() {
    let client = hf_hub::HFClient::new().expect("a client");
    let repository = client.model("org", "demo");
    for file in ["page", "cut", "cut"] {
        match repository.download_file().filename(file).send().await {
            Ok(path) => println!("{file}: {:?}", std::fs::read_to_string(path).expect("a file")),
            Err(error) => println!("{file}: {error}"),
        }
    }
}
RUST
cat >"$folder/hub.py" <<'PYTHON'
import http.server


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.send_header("x-repo-commit", "0" * 40)
        self.send_header("etag", '"%s"' % ("a" * 40 if self.path.endswith("page") else "b" * 40))
        self.send_header("content-length", "10")
        self.end_headers()

    def do_GET(self):
        print(self.path.rsplit("/", 1)[1], "range", self.headers.get("range"), flush=True)
        is_page = self.path.endswith("page")
        self.send_response(403 if is_page else 200)
        self.send_header("content-length", "7" if is_page else "10")
        self.end_headers()
        self.wfile.write(b"expired" if is_page else b"01234")

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
cargo build --quiet --manifest-path "$folder/Cargo.toml"
python3 "$folder/hub.py" >"$folder/asked" &
server=$!
for _ in $(seq 100); do
    [[ ! -s $folder/asked ]] || break
    sleep 0.1
done
port=$(head -1 "$folder/asked")
said=$(HF_HOME="$folder/home" HF_ENDPOINT="http://127.0.0.1:$port" HF_TOKEN='' "$folder/target/debug/finding")
echo "$said"
tail -n +2 "$folder/asked"
[[ $said == 'page: "expired"'* ]] || { echo "changed: the page of a 403 is not taken for the file"; exit 1; }
[[ $(grep -c '^cut range None$' "$folder/asked") -ge 2 ]] || { echo "changed: a cut is resumed"; exit 1; }
echo "hf-hub 1.0.0: as described"
