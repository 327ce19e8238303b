//! Models of the Hugging Face hub, which a mock on loopback stands for.

use crate::mock_hub::{COMMIT, MockHub, TOKEN, sha256};
use crate::support::{Program, Server, demo_model, within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

/// A hub with the demo model, and a cache of its own.
struct Fixture {
    hub: MockHub,
    home: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let home = TempDir::new().expect("a folder");
        Self { hub: MockHub::of_folder(&demo_model()).await, home }
    }

    fn variables(&self) -> [(&'static str, &str); 3] {
        [
            ("HF_ENDPOINT", &self.hub.url),
            ("HF_HOME", self.home.path().to_str().expect("UTF-8")),
            ("HF_HUB_OFFLINE", "0"),
        ]
    }

    fn call(&self, words: &str) -> Program {
        Program::new(words.split(' ')).envs(self.variables())
    }

    /// What the cache has of the repository.
    fn cache(&self, path: &str) -> PathBuf {
        self.home.path().join("hub/models--org--demo").join(path)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_model_of_the_hub_is_downloaded_and_served_by_its_name() {
    let it = Fixture::new().await;
    let arguments = ["--model", "org/demo", "--isa", "plain"];
    let mut server = Server::start_with(&it.variables(), arguments).await;
    server.says("loaded ").await;
    let body = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
    assert_eq!(body(&server.get("/v1/models").await.body)["data"][0]["id"], "org/demo");
    for path in ["/v1/models/org/demo", "/v1/models/org%2Fdemo"] {
        assert_eq!(body(&server.get(path).await.body)["id"], "org/demo", "{path}");
    }
    assert_eq!(body(&server.get("/info").await.body)["model_id"], "org/demo");
    let request = json!({"model": "org/demo", "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0});
    let answer = body(&server.post("/v1/completions", &request.to_string()).await.body);
    assert_eq!(answer["model"], "org/demo", "{answer}");
    assert!(server.get("/metrics").await.body.contains("model=\"org/demo\""));
    server.stop().await;

    // What is there needs nobody, and a folder within the cache is known for what it is.
    it.hub.asked();
    let folder = it.cache("snapshots").join(COMMIT);
    for (model, name, expected) in [
        ("org/demo", None, "org/demo"),
        (folder.to_str().expect("UTF-8"), None, "org/demo"),
        ("org/demo", Some("mine"), "mine"),
    ] {
        let named = name.map(|name| format!(" --served-model-name {name}")).unwrap_or_default();
        let call =
            it.call(&format!("serve --check --grpc-addr 127.0.0.1:0 --http-addr 127.0.0.1:0 --model {model}{named}"));
        let said = call.envs([("HF_HUB_OFFLINE", "1")]).run().await;
        assert!(said.stderr.contains(&format!("{expected} over 1 workers")), "{said:?}");
    }
    assert_eq!(it.hub.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn download_prints_the_folder_or_says_what_is_in_the_way() {
    let it = Fixture::new().await;
    it.hub.content().gated = Some(false);
    let said = it.call("download org/demo").run().await.failure();
    assert!(said.contains("error: org/demo: the owner asks everybody to accept a licence first"), "{said}");
    let elsewhere = it.home.path().join("elsewhere");
    let words = format!("download org/demo --revision {COMMIT} --cache-dir {}", elsewhere.display());
    let said = it.call(&words).envs([("HF_TOKEN", TOKEN)]).run().await.success();
    let folder = elsewhere.join("models--org--demo/snapshots").join(COMMIT);
    assert_eq!(said, format!("{}\n", folder.display()));
    let weights = fs::read(folder.join("model.safetensors")).expect("a file");
    assert_eq!(sha256(&weights), sha256(&it.hub.content().files["model.safetensors"]));
    assert!(!folder.join("README.md").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_download_can_be_stopped_and_goes_on_later() {
    let it = Fixture::new().await;
    it.hub.content().stall_after = Some(1_000_000);
    let sockets = TempDir::new().expect("a folder");
    let supervisor = UnixDatagram::bind(sockets.path().join("notify")).expect("a socket");
    let path = sockets.path().join("notify");
    let mut serving = it.call("serve --model org/demo").envs([("NOTIFY_SOCKET", path)]).start();
    serving.says("downloading org/demo: 0.00 of 0.02 GB").await;
    let mut message = vec![0; 4096];
    let count = within("a message", supervisor.recv(&mut message)).await.expect("a message");
    let message = String::from_utf8_lossy(&message[..count]);
    assert!(
        message.starts_with("STATUS=downloading org/demo") && message.contains("EXTEND_TIMEOUT_USEC="),
        "{message}"
    );
    let part = it.cache("blobs").join(format!("{}.incomplete", sha256(&it.hub.content().files["model.safetensors"])));
    crate::support::seen("a megabyte", || (fs::metadata(&part).ok()?.len() == 1_000_000).then_some(())).await;
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().await.status.code(), Some(0));

    it.hub.content().stall_after = None;
    it.hub.asked();
    it.call("download org/demo").run().await.success();
    let asked = it.hub.asked();
    let ranges: Vec<_> = asked.iter().filter(|asked| asked.of_cdn).map(|asked| asked.range.as_deref()).collect();
    assert_eq!(ranges, [Some("bytes=1000000-")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_reads_no_weights_downloads_none() {
    let it = Fixture::new().await;
    let said = it.call("plan --model org/demo --node local --backend cpu").run().await.success();
    assert!(said.contains("org/demo on local: fits") && said.contains("peregrine serve --model org/demo "), "{said}");
    let said = it.call("doctor --model org/demo --backend cpu").run().await;
    let remedy = "`peregrine download org/demo` brings them";
    assert!(said.status.code() == Some(1) && said.stderr.contains(remedy), "{said:?}");
    it.call("watermark-detect --model org/demo --input-ids 1,2,3").run().await.success();
    assert!(it.hub.asked().iter().all(|asked| !asked.of_cdn));
}
