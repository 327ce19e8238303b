//! What `--model` names.

use crate::{HubSettings, Progress, Repository, SourceError, Wanted, snapshot};
use std::path::{Path, PathBuf};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a repository of the Hugging Face hub.
    Hub(Repository),
}

/// Whether the hub is asked about a revision that its cache has whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// No: what is there is used, and no request is made.
    AsCached,
    /// Yes: a branch may have moved on.
    Newest,
}

impl Source {
    /// A folder that is there, or else ORG/NAME[@REVISION].
    ///
    /// # Errors
    ///
    /// [`SourceError::NoSuchModel`]: it is neither.
    pub fn parse(model: &Path) -> Result<Self, SourceError> {
        if model.is_dir() {
            return Ok(Self::Folder(model.to_owned()));
        }
        let repository = model.to_str().and_then(Repository::parse);
        repository.map(Self::Hub).ok_or_else(|| SourceError::NoSuchModel { model: model.to_owned() })
    }

    /// The folder with the files that are wanted. Those of the hub are downloaded to its cache, if they are not there.
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
        match self {
            Self::Folder(dir) => Ok(dir.clone()),
            Self::Hub(repository) => snapshot::bring(repository, wanted, freshness, settings, progress).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_goes_before_a_repository() {
        let here = tempfile::tempdir().expect("a folder");
        let folder = here.path().join("tiiuae/falcon-7b");
        std::fs::create_dir_all(&folder).expect("a folder");
        assert_eq!(Source::parse(&folder).expect("it is there"), Source::Folder(folder));
        let repository = Repository::parse("tiiuae/falcon-7b").expect("a name");
        assert_eq!(Source::parse(Path::new("tiiuae/falcon-7b")).expect("a name"), Source::Hub(repository));
        for neither in ["/no/such", "./no", "no/such/folder", "falcon-7b", "", "s3:/bucket"] {
            let error = Source::parse(Path::new(neither)).expect_err("it is neither").to_string();
            assert!(error.contains("there is no such folder"), "{neither}: {error}");
        }
    }
}
