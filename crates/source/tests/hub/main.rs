//! Downloads from a hub on loopback, which has faults on request.

mod mock;

use mock::{COMMIT, MockHub, TOKEN, git_hash, sha256};
use source::{Freshness, HubSettings, Progress, Repository, SourceError, Wanted};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// A file of so many bytes, which differ.
fn bytes(count: u32) -> Vec<u8> {
    (0..count).flat_map(|number| number.to_le_bytes()).take(count as usize).collect()
}

/// What a model's repository has.
fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", bytes(5_000)),
        ("generation_config.json", b"{\"eos_token_id\": 11}".to_vec()),
        (WEIGHTS, bytes(300_000)),
        ("pytorch_model.bin", bytes(300_001)),
        ("README.md", b"# A model".to_vec()),
    ]
}

/// A hub, and a cache of its own.
struct Fixture {
    hub: MockHub,
    home: TempDir,
    variables: BTreeMap<&'static str, String>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(model()).await
    }

    async fn with(files: Vec<(&'static str, Vec<u8>)>) -> Self {
        let (hub, home) = (MockHub::start(files).await, TempDir::new().expect("a folder"));
        let here = home.path().to_str().expect("UTF-8").to_owned();
        let variables = BTreeMap::from([("HF_HOME", here), ("HF_ENDPOINT", hub.url.clone())]);
        Self { hub, home, variables }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.variables.insert(name, value.to_owned());
    }

    fn settings(&self) -> HubSettings {
        let find = |name: &str| self.variables.get(name).map(OsString::from);
        let mut settings = HubSettings::from_environment(None, find).expect("they are well formed");
        settings.pause = Duration::from_millis(1);
        settings
    }

    async fn bring_as(&self, name: &str, wanted: Wanted, freshness: Freshness) -> Result<PathBuf, SourceError> {
        let repository = Repository::parse(name).expect("a name");
        repository.bring(wanted, freshness, &self.settings(), &Progress::default()).await
    }

    async fn bring(&self) -> Result<PathBuf, SourceError> {
        self.bring_as(mock::REPOSITORY, Wanted::Model, Freshness::AsCached).await
    }

    /// Why it cannot be brought.
    async fn error(&self) -> String {
        self.bring().await.expect_err("it is not to be had").to_string()
    }

    /// A path in what the cache has of the repository.
    fn cache(&self, path: &str) -> PathBuf {
        self.home.path().join("hub/models--org--demo").join(path)
    }

    /// The names in a folder of it.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.cache(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
        names.sort_unstable();
        names
    }

    /// The ranges that the CDN was asked for since this was asked last.
    fn ranges(&self) -> Vec<Option<String>> {
        self.hub.asked().into_iter().filter(|asked| asked.of_cdn).map(|asked| asked.range).collect()
    }

    fn weights(&self) -> Vec<u8> {
        self.hub.content().files[WEIGHTS].clone()
    }
}

/// Where a range begins.
fn begin(range: &str) -> usize {
    range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a number")
}

fn range(begin: usize) -> Option<String> {
    Some(format!("bytes={begin}-"))
}

#[tokio::test]
async fn a_model_comes_once_and_lies_where_other_tools_look() {
    let mut it = Fixture::new().await;
    it.set("HF_TOKEN", TOKEN);
    let progress = Progress::default();
    let repository = Repository::parse(mock::REPOSITORY).expect("a name");
    let dir = repository.bring(Wanted::Model, Freshness::AsCached, &it.settings(), &progress).await.expect("a folder");
    assert_eq!(dir, it.cache("snapshots").join(COMMIT));
    let files = it.hub.content().files.clone();
    for name in ["config.json", "tokenizer.json", "generation_config.json", WEIGHTS] {
        assert_eq!(fs::read(dir.join(name)).expect("a file"), files[name], "{name}");
        let hash = if name == WEIGHTS { sha256(&files[name]) } else { git_hash(&files[name]) };
        assert_eq!(fs::read_link(dir.join(name)).expect("a link"), Path::new("../../blobs").join(hash));
    }
    assert_eq!(it.names(&format!("snapshots/{COMMIT}")).len(), 4, "no more than is read");
    assert_eq!(it.names("blobs").len(), 4, "{:?}", it.names("blobs"));
    assert_eq!(fs::read_to_string(it.cache("refs/main")).expect("a file"), COMMIT);
    let bytes = 5_000 + 300_000 + 2 + 20;
    assert_eq!(progress.get(), (bytes, bytes));

    let asked = it.hub.asked();
    assert!(asked.iter().all(|asked| !asked.path.contains("README") && !asked.path.ends_with(".bin")), "{asked:?}");
    for asked in asked {
        let expected = (!asked.of_cdn).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(asked.authorization, expected, "{}: the token is for the hub alone", asked.path);
    }
    assert_eq!(it.bring().await.expect("it is there"), dir);
    assert_eq!(it.hub.asked().len(), 0, "what is there is not asked for");
    it.bring_as(mock::REPOSITORY, Wanted::Model, Freshness::Newest).await.expect("it is there");
    assert_eq!(it.hub.asked().len(), 1, "what the newest commit is, and nothing of its files");
}

#[tokio::test]
async fn a_transfer_that_is_cut_goes_on_where_it_was() {
    let it = Fixture::new().await;
    it.hub.content().cut_after = Some(100_000);
    let dir = it.bring().await.expect("a folder");
    let ranges = it.ranges();
    let begins: Vec<usize> = ranges.iter().map(|range| range.as_deref().map_or(0, begin)).collect();
    assert!(begins.len() >= 3 && begins[0] == 0 && begins.is_sorted() && begins[2] > 0, "{ranges:?}");
    assert_eq!(fs::read(dir.join(WEIGHTS)).expect("a file"), it.weights());
}

#[tokio::test]
async fn what_has_come_is_kept_for_the_next_call() {
    let it = Fixture::new().await;
    // Five tries in a row that bring nothing are too many.
    it.hub.content().cut_after = Some(0);
    let error = it.error().await;
    let is_cut = error.contains("org/demo: model.safetensors ended after 0 of 300000 bytes");
    assert!(is_cut || error.contains("connection closed before message completed"), "{error}");
    assert_eq!(it.ranges().len(), 5);
    assert!(it.cache("refs/main").symlink_metadata().is_err(), "it is not whole");

    fs::write(it.cache("blobs").join(format!("{}.incomplete", sha256(&it.weights()))), &it.weights()[..250_000])
        .expect("a file");
    it.hub.content().cut_after = None;
    let dir = it.bring().await.expect("a folder");
    assert_eq!(it.ranges(), [range(250_000)]);
    assert_eq!(fs::read(dir.join(WEIGHTS)).expect("a file"), it.weights());
    assert!(it.names("blobs").iter().all(|name| !name.ends_with(".incomplete")));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_sends_all_again() {
    let it = Fixture::new().await;
    fs::create_dir_all(it.cache("blobs")).expect("a folder");
    let part = it.cache("blobs").join(format!("{}.incomplete", sha256(&it.weights())));
    fs::write(part, &it.weights()[..1_000]).expect("a file");
    it.hub.content().ignores_ranges = true;
    let dir = it.bring().await.expect("a folder");
    assert_eq!(it.ranges(), [range(1_000)]);
    assert_eq!(fs::read(dir.join(WEIGHTS)).expect("a file"), it.weights());
}

#[tokio::test]
async fn wrong_bytes_are_thrown_away() {
    let it = Fixture::new().await;
    // Left by an earlier try whose disk was bad, or longer than the file is.
    for left in [vec![0; 1_000], vec![0; 300_001]] {
        fs::create_dir_all(it.cache("blobs")).expect("a folder");
        let part = it.cache("blobs").join(format!("{}.incomplete", sha256(&it.weights())));
        fs::write(part, left).expect("a file");
        let dir = it.bring().await.expect("it comes again");
        assert_eq!(fs::read(dir.join(WEIGHTS)).expect("a file"), it.weights());
        fs::remove_dir_all(it.cache("")).expect("it is there");
    }
    it.ranges();
    it.hub.content().wrong = 2;
    let error = it.error().await;
    let expected = sha256(&it.weights());
    assert!(error.contains("org/demo: model.safetensors came with the hash ") && error.contains(&expected), "{error}");
    assert_eq!(it.ranges(), [None, None], "it is tried once more, and not again");
    assert!(it.names("blobs").iter().all(|name| !name.starts_with(&expected)), "nothing of it stays");
    it.bring().await.expect("the hub has mended it");
}

#[tokio::test]
async fn failures_that_pass_are_waited_for() {
    let it = Fixture::new().await;
    (it.hub.content().hub_failures, it.hub.content().cdn_failures) = (4, 4);
    it.bring().await.expect("a folder");
    it.hub.content().hub_failures = 5;
    let error =
        it.bring_as("org/demo@refs/pr/1", Wanted::Model, Freshness::AsCached).await.expect_err("it is too often");
    assert!(error.to_string().contains("/api/models/org/demo/revision/refs%2Fpr%2F1 answers 503"), "{error}");
}

#[tokio::test]
async fn who_may_not_have_it_is_told_what_to_do() {
    let mut it = Fixture::new().await;
    it.hub.content().gated = Some(false);
    let page = format!("{}/org/demo", it.hub.url);
    let error = it.error().await;
    assert!(error.contains(&page) && error.contains("accept a licence") && error.contains("HF_TOKEN"), "{error}");
    it.set("HF_TOKEN", "hf_other");
    let error = it.error().await;
    assert!(error.contains("does not accept the token") && error.contains("/settings/tokens"), "{error}");
    it.set("HF_TOKEN", TOKEN);
    it.hub.content().gated = Some(true);
    let error = it.error().await;
    assert!(error.contains(&page) && error.contains("the account whose token this is"), "{error}");
    it.hub.content().gated = Some(false);
    it.bring().await.expect("the licence has been accepted");
}

#[tokio::test]
async fn names_that_nobody_knows() {
    let mut it = Fixture::new().await;
    let error = async |it: &Fixture, name| {
        it.bring_as(name, Wanted::Model, Freshness::AsCached).await.expect_err("nobody knows it").to_string()
    };
    let found = error(&it, "org/other").await;
    assert!(found.contains("org/other: there is no such folder") && found.contains("without a token"), "{found}");
    it.set("HF_TOKEN", TOKEN);
    let found = error(&it, "org/other").await;
    assert!(found.contains("has no such repository") && found.contains("the owner of this token"), "{found}");
    let found = error(&it, "org/demo@v2").await;
    assert!(found.contains("org/demo has no branch, tag or commit \"v2\""), "{found}");
    let found = error(&it, &format!("org/demo@{}", "f".repeat(40))).await;
    assert!(found.contains("no branch, tag or commit"), "{found}");
}

#[tokio::test]
async fn weights_in_other_formats_are_not_downloaded() {
    let it = Fixture::with(vec![("config.json", b"{}".to_vec()), ("pytorch_model.bin", bytes(9))]).await;
    let error = it.error().await;
    for part in ["no safetensors files, but pytorch_model.bin", "docs/getting-a-model.md"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(it.hub.asked().len(), 1, "the list of its files tells");
}

#[tokio::test]
async fn there_must_be_room_before_anything_large_is_begun() {
    let it = Fixture::new().await;
    it.hub.content().claims = Some(1 << 60);
    let error = it.error().await;
    assert!(
        error.contains("org/demo: 1152921504.6 GB more are needed in ") && error.contains("--cache-dir"),
        "{error}"
    );
    assert_eq!(it.ranges().len(), 0);
}

#[tokio::test]
async fn offline_there_is_what_the_cache_has() {
    let mut it = Fixture::new().await;
    it.set("HF_HUB_OFFLINE", "1");
    let error = it.error().await;
    assert!(
        error.contains("org/demo: this revision is not in ") && error.contains("peregrine download org/demo"),
        "{error}"
    );
    it.set("HF_HUB_OFFLINE", "0");
    let dir = it.bring_as(mock::REPOSITORY, Wanted::Description, Freshness::AsCached).await.expect("a folder");
    it.hub.asked();
    it.set("HF_HUB_OFFLINE", "1");
    let error = it.error().await;
    assert!(error.contains("org/demo: model.safetensors is not in "), "{error}");
    let cached = it.bring_as(mock::REPOSITORY, Wanted::Description, Freshness::Newest).await;
    assert_eq!(cached.expect("it is there"), dir);
    assert_eq!(it.hub.asked().len(), 0);
}

#[tokio::test]
async fn a_branch_that_moves_on_is_followed_when_that_is_asked_for() {
    let it = Fixture::new().await;
    let old = it.bring().await.expect("a folder");
    let commit = "f".repeat(40);
    it.hub.content().commit = commit.clone();
    it.hub.content().files.insert("config.json".to_owned(), b"{\"x\": 1}".to_vec());
    assert_eq!(it.bring().await.expect("it is there"), old);
    it.hub.asked();
    let new = it.bring_as(mock::REPOSITORY, Wanted::Model, Freshness::Newest).await.expect("a folder");
    assert_eq!(new, it.cache("snapshots").join(&commit));
    assert_eq!(it.ranges().len(), 0, "the weights are the same");
    assert_eq!(fs::read(new.join("config.json")).expect("a file"), b"{\"x\": 1}");
    assert_eq!(fs::read(old.join("config.json")).expect("a file"), b"{}");
    assert_eq!(it.bring().await.expect("it is there"), new);
    // A commit does not move.
    let name = format!("org/demo@{COMMIT}");
    assert_eq!(it.bring_as(&name, Wanted::Model, Freshness::Newest).await.expect("it is there"), old);
    assert_eq!(it.hub.asked().len(), 0);
}

#[tokio::test]
async fn the_files_of_an_index_come_and_no_others() {
    let index = br#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}"#.to_vec();
    let files = [("model.safetensors.index.json", index), ("1.safetensors", bytes(70)), ("2.safetensors", bytes(80))];
    let others =
        [("extra.safetensors", bytes(90)), ("config.json", b"{}".to_vec()), ("tokenizer.json", b"{}".to_vec())];
    let it = Fixture::with(files.into_iter().chain(others).collect()).await;
    let dir = it.bring_as(mock::REPOSITORY, Wanted::Description, Freshness::AsCached).await.expect("a folder");
    assert_eq!(it.names(&format!("snapshots/{COMMIT}")), ["config.json", "tokenizer.json"]);
    assert_eq!(it.bring().await.expect("a folder"), dir);
    let names = ["1.safetensors", "2.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(it.names(&format!("snapshots/{COMMIT}")), names);
    // What somebody has removed comes again.
    fs::remove_file(dir.join("2.safetensors")).expect("it is there");
    it.hub.asked();
    it.bring().await.expect("a folder");
    assert_eq!(it.ranges().len(), 0, "its bytes are still there");
}

#[tokio::test]
async fn a_mirror_may_have_the_files_itself() {
    let mut it = Fixture::new().await;
    it.set("HF_TOKEN", TOKEN);
    it.hub.content().is_mirror = true;
    let dir = it.bring().await.expect("a folder");
    assert_eq!(fs::read(dir.join(WEIGHTS)).expect("a file"), it.weights());
    assert_eq!(it.names("blobs").iter().filter(|name| **name == sha256(&it.weights())).count(), 1);
}

#[tokio::test]
async fn two_at_once_share_one_download() {
    let it = Fixture::new().await;
    let (one, two) = tokio::join!(it.bring(), it.bring());
    assert_eq!(one.expect("a folder"), two.expect("a folder"));
    assert_eq!(it.ranges().len(), 1);
}

#[tokio::test]
async fn nobody_answers() {
    let mut it = Fixture::new().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    it.set("HF_ENDPOINT", &format!("http://127.0.0.1:{port}"));
    let error = it.error().await;
    assert!(
        error.contains("cannot be reached") && error.contains("refused") && error.contains("HF_ENDPOINT"),
        "{error}"
    );
}
