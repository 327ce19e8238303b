//! What `--model` names.

use crate::{Repository, SourceError, StoreUrl};
use std::path::{Path, PathBuf};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a repository of the Hugging Face hub.
    Hub(Repository),
    /// In an object store.
    Store(StoreUrl),
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
    /// A folder that is there, or else ORG/NAME[@REVISION] or the URL of an object store.
    ///
    /// # Errors
    ///
    /// [`SourceError::NoSuchModel`]: it is none of them. [`SourceError::Store`]: it is the URL of something else.
    pub fn parse(model: &Path) -> Result<Self, SourceError> {
        if model.is_dir() {
            return Ok(Self::Folder(model.to_owned()));
        }
        if let Some(url) = model.to_str().and_then(StoreUrl::parse) {
            return Ok(Self::Store(url?));
        }
        let repository = model.to_str().and_then(Repository::parse);
        repository.map(Self::Hub).ok_or_else(|| SourceError::NoSuchModel { model: model.to_owned() })
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
