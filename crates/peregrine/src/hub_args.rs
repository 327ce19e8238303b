//! Where a model that is named comes from.

use crate::progress::while_downloading;
use crate::threads::start_runtime;
use anyhow::{Result, bail};
use clap::Args;
use sizing::{PUBLISHED, Published};
use source::{Freshness, HubSettings, Progress, Repository, Source, SourceError, StoreSettings, Wanted};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which revision of a model is taken from the Hugging Face hub, and where it is kept.
#[derive(Args, Clone, Debug, Default)]
pub struct HubArgs {
    /// Branch, tag or commit of a model of the Hugging Face hub. If not given: main.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Folder where models of the hub and of object stores are kept. If not given: as the variables HF_HUB_CACHE and HF_HOME say, and
    /// ~/.cache/peregrine for object stores.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

impl HubArgs {
    /// The folder of a model that is named as a folder, ORG/NAME[@REVISION], or JumpStart id. What is wanted of it and not there is
    /// downloaded.
    pub async fn folder(&self, model: &Path, wanted: Wanted, freshness: Freshness) -> Result<PathBuf> {
        let (name, progress) = (model.display().to_string(), Arc::<Progress>::default());
        match self.source(model)? {
            Source::Folder(dir) => Ok(dir),
            Source::Hub(repository) => {
                let settings = HubSettings::from_environment(self.cache_dir.as_deref(), |name| std::env::var_os(name))?;
                let bringing = repository.bring(wanted, freshness, &settings, &progress);
                Ok(while_downloading(&name, &progress, bringing).await?)
            }
            Source::Store(url) => {
                let settings = store_settings(self.cache_dir.as_deref());
                let bringing = url.bring(wanted, &settings, &progress);
                Ok(while_downloading(&name, &progress, bringing).await?)
            }
        }
    }

    /// The folder of a model of which no weights are read, as [`Self::folder`] finds it; outside of a runtime.
    pub fn description(&self, model: &Path) -> Result<PathBuf> {
        if let Source::Folder(dir) = self.source(model)? {
            return Ok(dir);
        }
        start_runtime()?.block_on(self.folder(model, Wanted::Description, Freshness::AsCached))
    }

    /// The arguments that say the same.
    pub fn words(&self) -> impl Iterator<Item = String> {
        let dir = self.cache_dir.as_ref().map(|dir| dir.display().to_string());
        let words = [("--revision", self.revision.clone()), ("--cache-dir", dir)];
        words.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?])).flatten()
    }

    fn source(&self, model: &Path) -> Result<Source> {
        let published = model.to_str().filter(|_| !model.is_dir()).and_then(Published::find);
        let named = published.map_or(model, |published| Path::new(published.repository));
        let source = match Source::parse(named) {
            Err(error @ SourceError::NoSuchModel { .. }) => {
                let known = PUBLISHED.map(|published| published.id).join("\n  ");
                bail!("{error}, nor one of these ids:\n  {known}");
            }
            source => source?,
        };
        match (&self.revision, source) {
            (None, source) => Ok(source),
            (Some(revision), Source::Hub(repository)) => at(&repository, revision),
            (Some(revision), source @ (Source::Folder(_) | Source::Store(_))) => {
                tracing::warn!("--revision {revision} has no effect: {} is not of the hub", model.display());
                Ok(source)
            }
        }
    }
}

/// How object stores are asked, by the variables of their own tools.
pub fn store_settings(cache: Option<&Path>) -> StoreSettings {
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    StoreSettings::from_environment(cache, variables)
}

fn at(repository: &Repository, revision: &str) -> Result<Source> {
    let repository = repository.at(revision);
    Ok(Source::Hub(repository.ok_or_else(|| SourceError::Revision { revision: revision.to_owned() })?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(model: &str, revision: Option<&str>) -> Result<Source> {
        HubArgs { revision: revision.map(str::to_owned), cache_dir: None }.source(Path::new(model))
    }

    #[test]
    fn jumpstarts_ids_are_repositories() {
        for published in PUBLISHED {
            let expected = Repository::parse(published.repository).expect("it is a name");
            assert_eq!(source(published.id, None).expect("an id"), Source::Hub(expected));
        }
        let chat = source("huggingface-llm-falcon-180b-chat-bf16", Some("v1")).expect("an id");
        assert_eq!(chat, Source::Hub(Repository::parse("tiiuae/falcon-180B-chat@v1").expect("a name")));
        let error = source("huggingface-llm-falcon-1b-bf16", None).expect_err("no such id").to_string();
        assert!(PUBLISHED.iter().all(|published| error.contains(published.id)), "{error}");
    }

    #[test]
    fn a_revision_is_of_the_hub_alone() {
        assert_eq!(source("a/b@x", Some("y")).expect("a name"), source("a/b@y", None).expect("a name"));
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(source(here, Some("y")).expect("a folder"), Source::Folder(here.into()));
        let error = source("a/b", Some("../x")).expect_err("it leads out of the cache").to_string();
        assert!(error.contains("--revision ../x"), "{error}");
    }
}
