//! What is asked of the hub, over HTTP.
//!
//! Crate hf-hub (1.0.0) is not used. Its downloads begin anew after a cut, compare no hash, do not look for room, know no offline
//! switch, and put the body of a failed `GET`, whose status they do not read, into the cache as the file. All of that would have to be
//! written around it, and a third HTTP stack comes with it: 90 crates, of which one brings a second library for TLS.

use crate::{HubSettings, Repository, SourceError};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use serde::Deserialize;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may bring nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// The ETag of a large file, which redirects lead to.
const LINKED_ETAG: &str = "x-linked-etag";
const REDIRECTS_MAX: u32 = 10;
/// Tries in a row that bring nothing, at most.
const TRIES: u32 = 5;
/// The longest pause before another try, whatever the hub asks for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Asks the hub about one repository.
pub(crate) struct Hub {
    client: Client,
    settings: HubSettings,
    pub(crate) repository: Repository,
}

/// The commit of a revision, and the names of its files.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    #[serde(rename = "sha")]
    pub(crate) commit: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

/// A file of the hub.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Its ETag: a SHA-256 if it is large, else git's hash.
    pub(crate) hash: String,
    pub(crate) bytes: u64,
}

/// How far redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// Until the hub says what it knows of a file: what lies behind does not know that.
    Hub,
    /// To the end.
    Anywhere,
}

impl Listing {
    pub(crate) fn names(self) -> Vec<String> {
        self.siblings.into_iter().map(|sibling| sibling.rfilename).collect()
    }
}

impl Hub {
    pub(crate) fn new(settings: &HubSettings, repository: &Repository) -> Result<Self, SourceError> {
        let mut roots = RootCertStore::empty();
        // What cannot be read of the system's makes servers untrusted, which the connection says.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls =
            ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
        let client = tls.map_err(|error| error.to_string()).and_then(|tls| {
            let client = Client::builder().redirect(Policy::none());
            let client = client.tls_backend_preconfigured(tls.with_root_certificates(roots).with_no_client_auth());
            let client = client.connect_timeout(CONNECT_LIMIT).read_timeout(SILENCE_LIMIT);
            let client = client.user_agent(concat!("peregrine/", env!("CARGO_PKG_VERSION"))).build();
            client.map_err(|error| causes(&error))
        });
        let url = settings.endpoint.to_string();
        let client =
            client.map_err(|reason| SourceError::Unreachable { repository: repository.clone(), url, reason })?;
        Ok(Self { client, settings: settings.clone(), repository: repository.clone() })
    }

    /// The commit of the revision, and the files that it has.
    pub(crate) async fn listing(&self) -> Result<Listing, SourceError> {
        let revision = self.repository.revision();
        let url = self.url(&["api", "models"], &["revision", revision]);
        self.with_patience(async || {
            let response = self.send(Method::GET, url.clone(), 0, Follow::Hub).await?;
            let bytes = response.bytes().await.map_err(|error| self.unreachable(&url, &error))?;
            let listing: Listing = serde_json::from_slice(&bytes)
                .map_err(|error| self.answer(&url, "a list of the repository's files", error.to_string()))?;
            if !crate::repository::is_commit(&listing.commit) {
                return Err(self.answer(&url, "the hash of a commit", listing.commit));
            }
            Ok(listing)
        })
        .await
    }

    /// What the hub knows of a file.
    pub(crate) async fn entry(&self, commit: &str, name: &str) -> Result<Entry, SourceError> {
        let url = self.file_url(commit, name);
        self.with_patience(async || {
            let response = self.send(Method::HEAD, url.clone(), 0, Follow::Hub).await?;
            let headers = response.headers();
            let hash = text(headers, LINKED_ETAG).or_else(|| text(headers, ETAG.as_str()));
            let hash = hash.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
            // It becomes the name of a file.
            let is_name =
                |tag: &String| !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            let hash = hash.filter(is_name).ok_or_else(|| self.answer(&url, "an ETag", "none".to_owned()))?;
            let length = text(headers, CONTENT_LENGTH.as_str()).filter(|_| response.status().is_success());
            let bytes = text(headers, "x-linked-size").or(length).and_then(|bytes| bytes.parse().ok());
            let bytes = bytes.ok_or_else(|| self.answer(&url, "the length of the file", "none".to_owned()))?;
            Ok(Entry { name: name.to_owned(), hash, bytes })
        })
        .await
    }

    /// A file's bytes from `begin` on. Its status is 206 if they are those, and 200 if they begin at 0.
    pub(crate) async fn open(&self, commit: &str, name: &str, begin: u64) -> Result<Response, SourceError> {
        self.send(Method::GET, self.file_url(commit, name), begin, Follow::Anywhere).await
    }

    fn file_url(&self, commit: &str, name: &str) -> Url {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(name.split('/')).collect();
        self.url(&[], &parts)
    }

    /// The repository's URL, between `before` and `behind`.
    fn url(&self, before: &[&str], behind: &[&str]) -> Url {
        let mut url = self.settings.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(before).extend(self.repository.id().split('/')).extend(behind);
        }
        url
    }

    /// Sends a request, and follows redirects: by itself, as the token is for the hub alone, wherever a redirect leads.
    async fn send(&self, method: Method, mut url: Url, begin: u64, follow: Follow) -> Result<Response, SourceError> {
        for _ in 0..REDIRECTS_MAX {
            let is_hub = url.origin() == self.settings.endpoint.origin();
            let mut request = self.client.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(value) = self.settings.authorization.clone().filter(|_| is_hub) {
                request = request.header(AUTHORIZATION, value);
            }
            if begin > 0 {
                request = request.header(RANGE, format!("bytes={begin}-"));
            }
            let response = request.send().await.map_err(|error| self.unreachable(&url, &error))?;
            if !response.status().is_redirection() {
                return if response.status().is_success() { Ok(response) } else { Err(self.refusal(&response)) };
            }
            let next = text(response.headers(), LOCATION.as_str()).and_then(|to| url.join(&to).ok());
            let next = next.ok_or_else(|| self.answer(&url, "a redirect's Location", "none".to_owned()))?;
            let is_told = response.headers().contains_key(LINKED_ETAG);
            if follow == Follow::Hub && (is_told || next.origin() != self.settings.endpoint.origin()) {
                return Ok(response);
            }
            url = next;
        }
        Err(self.answer(&url, "an answer", format!("{REDIRECTS_MAX} redirects")))
    }

    /// Why an answer is no success. The hub says so in `X-Error-Code`; 401 is also what it says of a repository that it does not have.
    fn refusal(&self, response: &Response) -> SourceError {
        let (status, headers) = (response.status().as_u16(), response.headers());
        let (code, message) = (text(headers, "x-error-code"), text(headers, "x-error-message"));
        let code = code.as_deref().unwrap_or_default();
        let repository = self.repository.clone();
        let endpoint = self.settings.endpoint.as_str().trim_end_matches('/').to_owned();
        let has_token = self.settings.authorization.is_some();
        let is_hub = response.url().origin() == self.settings.endpoint.origin();
        match (status, code) {
            (401 | 403, "GatedRepo") => SourceError::Gated { repository, endpoint, has_token },
            (_, "RevisionNotFound") => SourceError::NoRevision { repository, endpoint },
            (401, _) if is_hub && message.as_ref().is_some_and(|text| text.contains("Invalid credentials")) => {
                SourceError::TokenRefused { repository, endpoint }
            }
            (401, _) if is_hub => SourceError::NoRepository { repository, endpoint, has_token },
            (_, "RepoNotFound") => SourceError::NoRepository { repository, endpoint, has_token },
            _ => SourceError::Status {
                repository,
                url: shown(response.url()),
                status,
                message: message.map(|text| format!(": {text}")).unwrap_or_default(),
                after: text(headers, RETRY_AFTER.as_str()).and_then(|s| s.parse().ok()).map(Duration::from_secs),
            },
        }
    }

    fn unreachable(&self, url: &Url, error: &reqwest::Error) -> SourceError {
        SourceError::Unreachable { repository: self.repository.clone(), url: shown(url), reason: causes(error) }
    }

    fn answer(&self, url: &Url, expected: &'static str, found: String) -> SourceError {
        SourceError::Answer { repository: self.repository.clone(), url: shown(url), expected, found }
    }

    /// Asks until there is an answer, or too many tries have failed.
    async fn with_patience<T>(&self, ask: impl AsyncFn() -> Result<T, SourceError>) -> Result<T, SourceError> {
        let mut patience = self.patience();
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => patience.again(error).await?,
            }
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience { pause: self.settings.pause, failures: 0 }
    }
}

/// How often something is tried again.
pub(crate) struct Patience {
    pause: Duration,
    failures: u32,
}

impl Patience {
    /// Returns after a pause if there is to be another try, else with the error.
    pub(crate) async fn again(&mut self, error: SourceError) -> Result<(), SourceError> {
        self.failures += 1;
        if !error.may_pass() || self.failures == TRIES {
            return Err(error);
        }
        let asked = if let SourceError::Status { after, .. } = &error { *after } else { None };
        let pause = (self.pause * (1 << (self.failures - 1))).max(asked.unwrap_or_default()).min(PAUSE_MAX);
        tracing::debug!("{error}; another try in {pause:?}");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// The last try has brought something.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// A URL without its query, which is the key to a file at a CDN.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// An error with its causes; the URL is told beside it.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text += if text.is_empty() { "" } else { ": " };
            text += &part;
        }
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}
