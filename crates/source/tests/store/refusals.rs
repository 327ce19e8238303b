//! What cannot be fetched or written, and why.

use super::server::{BUCKET, S3};
use super::{Node, PREFIX, URL, put};
use source::{SourceError, StoreSettings, StoreUrl, Uploads, Wanted};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testkit::goldens::model_dir;

async fn refusal(node: &Node, url: &str) -> String {
    let url = StoreUrl::parse(url).expect("a URL").expect("a store");
    let brought = url.bring(Wanted::Model, &node.settings, &Arc::default()).await;
    brought.expect_err("refused").to_string()
}

/// A node whose variables have another value, or none.
fn with(s3: &S3, name: &str, value: Option<&str>) -> Node {
    let mut node = Node::new(s3);
    let others = s3.variables().into_iter().filter(|(key, _)| key != name);
    let variables = others.chain(value.map(|value| (name.to_owned(), value.to_owned())));
    let cache = node.cache.path().to_owned();
    node.settings = StoreSettings::from_environment(Some(&cache), variables);
    node.settings.retry_limit = Duration::from_millis(500);
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_or_not_ours_is_named() {
    let s3 = S3::start();
    put(&s3, &model_dir("tiny-falcon-7b")).await;
    let node = Node::new(&s3);
    let nothing = refusal(&node, "s3://models/falcon").await;
    assert_eq!(nothing, "s3://models/falcon: expected a model's config.json, found nothing");
    let no_bucket = refusal(&node, "s3://no-such-bucket/x").await;
    assert!(no_bucket.starts_with("s3://no-such-bucket/x: "), "{no_bucket}");

    let forged = refusal(&with(&s3, "AWS_SECRET_ACCESS_KEY", Some("another")), URL).await;
    assert!(forged.starts_with(&format!("{URL}: the store refuses")) && forged.contains("AWS_REGION"), "{forged}");
    let plain = refusal(&with(&s3, "AWS_ALLOW_HTTP", None), URL).await;
    assert!(plain.contains("is not encrypted: set AWS_ALLOW_HTTP=true"), "{plain}");
    let mut homeless = Node::new(&s3);
    homeless.settings.cache = None;
    let homeless = refusal(&homeless, URL).await;
    assert!(homeless.contains("--cache-dir"), "{homeless}");

    std::fs::remove_file(s3.file(&format!("{PREFIX}/model.safetensors"))).expect("an object");
    let no_weights = refusal(&node, URL).await;
    assert!(no_weights.starts_with(&format!("{URL}: expected a model's weights")), "{no_weights}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_for_which_there_is_no_room_is_refused_before_any_weight_comes() {
    let s3 = S3::start();
    put(&s3, &model_dir("tiny-falcon-7b")).await;
    let weights = s3.file(&format!("{PREFIX}/model.safetensors"));
    // Of holes.
    File::options().write(true).open(weights).and_then(|file| file.set_len(8 << 40)).expect("a file");
    let node = Node::new(&s3);
    let error = refusal(&node, URL).await;
    assert!(error.contains(" bytes more are needed in ") && error.contains("--cache-dir"), "{error}");
    assert!(s3.gets().iter().all(|asked| !asked.key.ends_with(".safetensors")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_not_written_over_another() {
    let s3 = S3::start();
    put(&s3, &model_dir("tiny-falcon-7b")).await;
    let url = StoreUrl::parse(URL).expect("a URL").expect("a store");
    let settings = StoreSettings::from_environment(None, s3.variables());
    let error = Uploads::open(&url, &settings).await.err().expect("it is taken").to_string();
    assert!(error.starts_with(&format!("{URL}: there is a model already, as ")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_many_parts_is_written_whole() {
    let s3 = S3::start();
    let url = StoreUrl::parse("s3://models/parts").expect("a URL").expect("a store");
    let uploads = Uploads::open(&url, &StoreSettings::from_environment(None, s3.variables())).await.expect("a place");
    let bytes: Vec<u8> = (0..40_000_000_u32).map(|i| (i % 251) as u8).collect();
    let expected = bytes.clone();
    let sent = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut upload = uploads.create("rank-0-of-1.safetensors", bytes.len() as u64).expect("an object");
        bytes.chunks(1_000_003).for_each(|piece| upload.write_all(piece).expect("it is sent"));
        upload.finish().expect("it is sent");
    });
    sent.await.expect("no panic");
    assert!(std::fs::read(s3.file("parts/rank-0-of-1.safetensors")).expect("an object") == expected);
    let parts = s3.asked().iter().filter(|asked| asked.method == "PUT").count();
    assert_eq!((parts, s3.root().join(BUCKET).exists()), (3, true));
}

#[test]
fn other_urls_are_refused() {
    let refused = source::Source::parse(Path::new("http://host/model"));
    assert!(matches!(refused, Err(SourceError::Store(_))), "{refused:?}");
}
