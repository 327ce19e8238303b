//! How fast a model comes from an object store, beside what the same server gives a plain parallel ranged download.
//!
//! `cargo bench -p source --bench store_rate -- DIR [CACHE]`: puts the model of the folder DIR into a server of S3's protocol on
//! loopback, and then brings it to CACHE, by turns with the plain download, which throws away what comes. Both ask for pieces of the same
//! size by as many requests at once. Prints the rates, and the ratio.

#[allow(dead_code, reason = "tests want more of it")]
#[path = "../tests/store/server.rs"]
mod server;

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::signer::Signer;
use server::{BUCKET, S3};
use source::{StoreSettings, StoreUrl, Uploads, Wanted};
use std::fs::File;
use std::io::{Write, copy};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const REQUESTS: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(model) = arguments.next().map(PathBuf::from) else { return eprintln!("needed: the folder of a model") };
    let cache = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let s3 = S3::start();
    let bytes = put(&s3, &model, &runtime);
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let (plain, ours) = runtime.block_on(async { (plain(&s3).await, bring(&s3, &cache).await) });
        let [plain, ours] = [plain, ours].map(|took| bytes as f64 / 1e9 / took.as_secs_f64());
        println!(
            "round {round}: plain ranged download {plain:.2} GB/s, into the cache {ours:.2} GB/s, {:.2}",
            ours / plain
        );
        ratios.push(ours / plain);
    }
    ratios.sort_by(f64::total_cmp);
    println!("{:.2} GB from {}; ratio, the median of {ROUNDS}: {:.2}", bytes as f64 / 1e9, BUCKET, ratios[ROUNDS / 2]);
}

fn settings(s3: &S3, cache: Option<&Path>) -> StoreSettings {
    StoreSettings::from_environment(cache, s3.variables())
}

fn url() -> StoreUrl {
    StoreUrl::parse(&format!("s3://{BUCKET}/m")).expect("a URL").expect("a store")
}

/// Puts the model there. Returns its bytes.
fn put(s3: &S3, model: &Path, runtime: &tokio::runtime::Runtime) -> u64 {
    let uploads = runtime.block_on(Uploads::open(&url(), &settings(s3, None))).expect("a place");
    let names = std::fs::read_dir(model).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut bytes = 0;
    for name in names.map(|name| name.into_string().expect("UTF-8")) {
        let mut file = File::open(model.join(&name)).expect("a file");
        let len = file.metadata().expect("a file").len();
        let mut upload = uploads.create(&name, len).expect("an object");
        copy(&mut file, &mut upload).and_then(|_| upload.flush()).expect("it is sent");
        upload.finish().expect("it is sent");
        bytes += if name.ends_with(".safetensors") { len } else { 0 };
    }
    bytes
}

/// Asks for all pieces of the weights by URLs that are signed before, and throws them away.
async fn plain(s3: &S3) -> Duration {
    let builder = s3.variables().into_iter().fold(AmazonS3Builder::new(), |builder, (name, value)| {
        builder.with_config(name.to_ascii_lowercase().parse().expect("a known name"), value)
    });
    let store = builder.with_bucket_name(BUCKET).build().expect("a store");
    let piece = settings(s3, None).piece_bytes;
    let mut pieces = Vec::new();
    for entry in std::fs::read_dir(s3.file("m")).expect("a folder").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("UTF-8");
        if name.ends_with(".safetensors") {
            let key = Key::parse(format!("m/{name}")).expect("a key");
            let signed = store.signed_url("GET".parse().expect("a method"), &key, Duration::from_secs(3600)).await;
            let (url, size) = (signed.expect("a URL"), entry.metadata().expect("a file").len());
            pieces.extend(
                (0..size.div_ceil(piece)).map(|index| (url.clone(), index * piece, size.min((index + 1) * piece))),
            );
        }
    }
    let client = Arc::new(reqwest::Client::builder().build().expect("a client"));
    let begin = Instant::now();
    let ask = |(url, start, end): (_, u64, u64)| {
        let client = Arc::clone(&client);
        async move {
            let request = client.get(url).header("range", format!("bytes={start}-{}", end - 1));
            let answer = request.send().await.expect("an answer").error_for_status().expect("a part");
            let came = answer.bytes_stream().try_fold(0, |sum, bytes| async move { Ok(sum + bytes.len() as u64) });
            assert_eq!(came.await.expect("bytes"), end - start);
        }
    };
    let asked = stream::iter(pieces).map(|piece| tokio::spawn(ask(piece))).buffer_unordered(REQUESTS);
    asked.for_each(|done| async { done.expect("no panic") }).await;
    begin.elapsed()
}

/// Brings the model, as `serve` does.
async fn bring(s3: &S3, cache: &Path) -> Duration {
    let cache = tempfile::tempdir_in(cache).expect("a folder");
    let begin = Instant::now();
    url().bring(Wanted::Model, &settings(s3, Some(cache.path())), &Arc::default()).await.expect("it comes");
    begin.elapsed()
}
