//! Models in object stores, over a real server of S3's protocol.

use crate::s3::S3;
use crate::support::{Program, demo_model};
use tempfile::TempDir;

const PROMPT: &str = "Once upon a time";
const URL: &str = "s3://models/falcon/demo";

async fn generate(s3: &S3, arguments: &[&str]) -> String {
    let options = ["generate", PROMPT, "--json", "--details", "--max-new-tokens", "24"];
    Program::new(options.iter().chain(arguments)).envs(s3.variables()).run().await.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_model_is_cut_into_a_store_and_every_rank_has_its_bytes_from_there_once() {
    let (s3, cache) = (S3::start(), TempDir::new().expect("a temporary folder"));
    let demo = demo_model().to_str().expect("UTF-8").to_owned();
    let shard = ["shard", "--model", &demo, "--tensor-parallel", "3", "--out", URL];
    let ended = Program::new(shard).envs(s3.variables()).run().await;
    assert!(ended.stderr.contains(&format!("{URL}: ")), "{ended:?}");
    assert_eq!(ended.success(), "");
    s3.asked();

    let whole = generate(&s3, &["--model", &demo, "--tensor-parallel", "3"]).await;
    let cache = cache.path().to_str().expect("UTF-8");
    let from_store = ["--model", URL, "--cache-dir", cache];
    assert_eq!(generate(&s3, &from_store).await, whole);
    let gets = s3.gets();
    for rank in 0..3 {
        let name = format!("falcon/demo/rank-{rank}-of-3.safetensors");
        let sent: u64 = gets.iter().filter(|asked| asked.key == name).map(|asked| asked.sent).sum();
        assert_eq!(sent, s3.file(&name).metadata().expect("an object").len(), "{name}");
    }
    assert_eq!(generate(&s3, &from_store).await, whole);
    assert!(s3.gets().is_empty(), "it is there");

    let taken = Program::new(shard).envs(s3.variables()).run().await.failure();
    assert!(taken.contains(&format!("{URL}: there is a model already")), "{taken}");
}
