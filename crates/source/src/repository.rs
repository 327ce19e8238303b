//! Names of repositories.

use crate::{Freshness, HubSettings, Progress, SourceError, Wanted, snapshot};
use std::fmt;
use std::path::PathBuf;

/// The revision that is taken where none is named.
const MAIN: &str = "main";
/// Characters of ORG/NAME, at most, on the hub.
const ID_MAX: usize = 96;

/// A repository of the Hugging Face hub, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    id: String,
    revision: String,
}

impl Repository {
    /// `ORG/NAME` or `ORG/NAME@REVISION`; `None` if it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (org, name) = id.split_once('/')?;
        let is_id = is_word(org) && is_word(name) && id.len() <= ID_MAX;
        (is_id && is_revision(revision)).then(|| Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// The same repository at another revision; `None` if it cannot be one.
    #[must_use]
    pub fn at(&self, revision: &str) -> Option<Self> {
        is_revision(revision).then(|| Self { id: self.id.clone(), revision: revision.to_owned() })
    }

    /// The folder with the files that are wanted, in the hub's cache. They are downloaded if they are not there.
    ///
    /// Must be called within a tokio runtime. If the future is dropped, what has come so far stays, and the next call goes on from
    /// there.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: they are nowhere to be had.
    pub async fn bring(
        &self,
        wanted: Wanted,
        freshness: Freshness,
        settings: &HubSettings,
        progress: &Progress,
    ) -> Result<PathBuf, SourceError> {
        snapshot::bring(self, wanted, freshness, settings, progress).await
    }

    /// ORG/NAME.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A branch, a tag, or a commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// As the hub allows for an organization or a model. `--` parts the two in the cache.
fn is_word(word: &str) -> bool {
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let forbidden = ["--", ".."].iter().any(|pair| word.contains(pair)) || word.ends_with(".git");
    word.chars().all(allowed) && !forbidden && ends_well(word.chars().next()) && ends_well(word.chars().next_back())
}

/// As git allows, and so that it stays within the cache as the path that it becomes there.
fn is_revision(revision: &str) -> bool {
    let allowed = |c: char| c.is_ascii_graphic() && !"~^:?*[\\".contains(c);
    !revision.is_empty()
        && revision.chars().all(allowed)
        && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

/// Whether it is the hash of a commit, whole.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_a_revision() {
        let of = |text: &str| Repository::parse(text).map(|it| (it.id.clone(), it.revision.clone(), it.to_string()));
        let parts =
            |id: &str, revision: &str, shown: &str| Some((id.to_owned(), revision.to_owned(), shown.to_owned()));
        assert_eq!(of("tiiuae/falcon-7b"), parts("tiiuae/falcon-7b", "main", "tiiuae/falcon-7b"));
        assert_eq!(of("a/b.c@v1.0"), parts("a/b.c", "v1.0", "a/b.c@v1.0"));
        assert_eq!(of("_a/b_@refs/pr/3"), parts("_a/b_", "refs/pr/3", "_a/b_@refs/pr/3"));
    }

    #[test]
    fn what_cannot_be_a_repository() {
        let long = format!("a/{}", "b".repeat(95));
        let names =
            ["", "a", "/", "a/", "/b", "a/b/c", "a b/c", "a/..", "../b", "a--b/c", "-a/b", "a/b-", "a/b.git", &long];
        let revisions = ["a/b@", "a/b@../../x", "a/b@/x", "a/b@x/", "a/b@x y", "a/b@.x", "a/b@x/../y", "a/b@x:y"];
        for text in names.into_iter().chain(revisions) {
            assert_eq!(Repository::parse(text), None, "{text}");
        }
    }

    #[test]
    fn commits_are_told_by_their_form() {
        assert!(is_commit("898df1396f35e447d5fe44e0a3ccaaaa69f30d36"));
        assert!(!is_commit("898df13") && !is_commit("main") && !is_commit(&"g".repeat(40)));
    }
}
