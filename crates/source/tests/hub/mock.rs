//! A hub and a CDN on loopback, which answer as the Hugging Face hub does, and have faults on request.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;

/// The repository that the hub has.
pub const REPOSITORY: &str = "org/demo";
/// Its first commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The token that the hub knows.
pub const TOKEN: &str = "hf_known";

/// A hub and a CDN.
pub struct MockHub {
    /// The URL of the hub.
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    cdn: String,
    content: Mutex<Content>,
    requests: Mutex<Vec<Asked>>,
}

/// What the hub has, and what it does wrong.
pub struct Content {
    /// The files of the newest commit.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The newest commit.
    pub commit: String,
    /// Only callers with the token get files; `Some(true)`: not even they, as nobody has accepted the licence.
    pub gated: Option<bool>,
    /// The CDN closes the connection after so many bytes of each answer.
    pub cut_after: Option<usize>,
    /// The CDN sends so many bytes of each answer, and then nothing.
    pub stall_after: Option<usize>,
    /// The CDN fails with 503 so many times from now on.
    pub cdn_failures: u32,
    /// The hub fails with 503 so many times from now on.
    pub hub_failures: u32,
    /// The CDN sends all of a file, whatever range is asked for.
    pub ignores_ranges: bool,
    /// Large files lie at the hub, as at a mirror's, and not at the CDN.
    pub is_mirror: bool,
    /// The CDN sends other bytes than the hub has, so many times from now on.
    pub wrong: u32,
    /// The hub says that large files have so many bytes.
    pub claims: Option<u64>,
}

/// A request that came.
#[allow(dead_code, reason = "one of the two programs that use this module reads all of it")]
#[derive(Clone, Debug)]
pub struct Asked {
    /// To the CDN, and not the hub.
    pub of_cdn: bool,
    /// Its path.
    pub path: String,
    /// The range that it asks for.
    pub range: Option<String>,
    /// What it says in `Authorization`.
    pub authorization: Option<String>,
}

impl MockHub {
    /// A hub with these files. Those that end in `.safetensors` or `.bin` are large, and lie at the CDN.
    pub async fn start<N: Into<String>>(files: impl IntoIterator<Item = (N, Vec<u8>)>) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let cdn = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let content = Content {
            files: files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect(),
            commit: COMMIT.to_owned(),
            gated: None,
            cut_after: None,
            stall_after: None,
            cdn_failures: 0,
            hub_failures: 0,
            ignores_ranges: false,
            is_mirror: false,
            wrong: 0,
            claims: None,
        };
        let shared = Arc::new(Shared { cdn: url(&cdn), content: Mutex::new(content), requests: Mutex::default() });
        let it = Self { url: url(&hub), shared: shared.clone() };
        let routes = Router::new().fallback(of_hub).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(hub, routes).await });
        let routes = Router::new().fallback(of_cdn).with_state(shared);
        tokio::spawn(async move { axum::serve(cdn, routes).await });
        it
    }

    /// A hub with the files of a folder.
    #[allow(dead_code, reason = "one of the two programs that use this module does")]
    pub async fn of_folder(dir: &Path) -> Self {
        let entries = std::fs::read_dir(dir).expect("a folder").flatten();
        let files = entries.map(|entry| {
            let name = entry.file_name().into_string().expect("UTF-8");
            (name, std::fs::read(entry.path()).expect("a file"))
        });
        Self::start(files.collect::<Vec<_>>()).await
    }

    /// What it has, to be changed.
    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.shared.content.lock().expect("nobody has panicked")
    }

    /// The requests that came since this was asked last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.requests.lock().expect("nobody has panicked"))
    }
}

impl Shared {
    fn note(&self, of_cdn: bool, request: &Request) {
        let text = |name| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
        self.requests.lock().expect("nobody has panicked").push(Asked {
            of_cdn,
            path: request.uri().path().to_owned(),
            range: text(RANGE),
            authorization: text(AUTHORIZATION),
        });
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("nobody has panicked")
    }
}

fn failed(status: StatusCode, code: &'static str, message: &'static str) -> Response {
    (status, [("x-error-code", code), ("x-error-message", message)]).into_response()
}

/// Whether one more failure is due.
fn take(count: &mut u32) -> bool {
    let is_due = *count > 0;
    *count -= u32::from(is_due);
    is_due
}

async fn of_hub(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.note(false, &request);
    let mut content = shared.content();
    if take(&mut content.hub_failures) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let known = format!("Bearer {TOKEN}");
    let token = request.headers().get(AUTHORIZATION).map(|value| value == known.as_str());
    if token == Some(false) {
        return failed(StatusCode::UNAUTHORIZED, "", "Invalid credentials in Authorization header");
    }
    let path = request.uri().path().to_owned();
    if content.is_mirror && path.trim_start_matches('/').len() == sha256(b"").len() {
        return large_file(&mut content, &request);
    }
    if let Some(hash) = path.strip_prefix("/api/resolve-cache/") {
        return small_file(&content, hash);
    }
    let api = path.strip_prefix(&format!("/api/models/{REPOSITORY}/revision/"));
    let file = path.strip_prefix(&format!("/{REPOSITORY}/resolve/")).and_then(|rest| rest.split_once('/'));
    let Some(revision) = api.or(file.map(|(revision, _)| revision)) else {
        // As the hub says it of what nobody may know.
        let status = if token.is_some() { StatusCode::NOT_FOUND } else { StatusCode::UNAUTHORIZED };
        return failed(status, "RepoNotFound", "Repository not found");
    };
    if revision != "main" && revision != "refs%2Fpr%2F1" && revision != content.commit {
        return failed(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id");
    }
    match (file, content.gated, token) {
        (None, ..) => listing(&content),
        (Some(_), Some(_), None) => failed(StatusCode::UNAUTHORIZED, "GatedRepo", "Access is restricted"),
        (Some(_), Some(true), Some(_)) => failed(StatusCode::FORBIDDEN, "GatedRepo", "Access is restricted"),
        (Some((_, name)), ..) => resolve(&shared.cdn, &content, name),
    }
}

fn listing(content: &Content) -> Response {
    let names: Vec<String> = content.files.keys().map(|name| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
    format!(r#"{{"id":"{REPOSITORY}","sha":"{}","siblings":[{}]}}"#, content.commit, names.join(",")).into_response()
}

fn resolve(cdn: &str, content: &Content, name: &str) -> Response {
    let Some(bytes) = content.files.get(name) else {
        return failed(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found");
    };
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: String| drop(headers.insert(name, value.parse().expect("a value")));
    put("x-repo-commit", content.commit.clone());
    if is_large(name) {
        let hash = sha256(bytes);
        put("x-linked-etag", format!("\"{hash}\""));
        put("x-linked-size", content.claims.unwrap_or(bytes.len() as u64).to_string());
        put("etag", "\"not-this\"".to_owned());
        let place = if content.is_mirror { "" } else { cdn };
        put(LOCATION.as_str(), format!("{place}/{hash}?signature=secret"));
        (StatusCode::FOUND, headers).into_response()
    } else {
        put(LOCATION.as_str(), format!("/api/resolve-cache/{}", git_hash(bytes)));
        (StatusCode::TEMPORARY_REDIRECT, headers).into_response()
    }
}

fn small_file(content: &Content, hash: &str) -> Response {
    let found = content.files.values().find(|bytes| git_hash(bytes) == hash);
    found.map_or_else(
        || StatusCode::NOT_FOUND.into_response(),
        |bytes| ([(ETAG, format!("\"{hash}\""))], bytes.clone()).into_response(),
    )
}

async fn of_cdn(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.note(true, &request);
    large_file(&mut shared.content(), &request)
}

fn large_file(content: &mut Content, request: &Request) -> Response {
    if take(&mut content.cdn_failures) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let hash = request.uri().path().trim_start_matches('/');
    let found = content.files.iter().find(|(name, bytes)| is_large(name) && sha256(bytes) == hash);
    let Some(mut bytes) = found.map(|(_, bytes)| bytes.clone()).filter(|_| request.uri().query().is_some()) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    if take(&mut content.wrong) {
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
    }
    let range = request.headers().get(RANGE).filter(|_| !content.ignores_ranges).and_then(|range| range.to_str().ok());
    let begin: usize =
        range.map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("bytes=N-"));
    let status = if begin > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let rest = Bytes::from(bytes).slice(begin..);
    let length = rest.len();
    let (cut, stall) = (content.cut_after, content.stall_after);
    let sent = cut.or(stall).filter(|&bytes| bytes < length);
    let begun = stream::iter([Ok(rest.slice(..sent.unwrap_or(length)))]);
    let body = match sent {
        None => Body::from_stream(begun),
        Some(_) if cut.is_some() => {
            let cut = async {
                // What is written so far goes out meanwhile.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            };
            Body::from_stream(begun.chain(stream::once(cut)))
        }
        Some(_) => Body::from_stream(begun.chain(stream::pending::<io::Result<Bytes>>())),
    };
    let range = format!("bytes {begin}-{}/{}", begin + length - 1, begin + length);
    (status, [(CONTENT_LENGTH, length.to_string()), (CONTENT_RANGE, range)], body).into_response()
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".bin"].iter().any(|end| name.ends_with(end))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// The hash of a large file.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The hash of a small file, as git has it.
pub fn git_hash(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}
