//! Where models are kept, and who asks for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

const PIECE_BYTES: u64 = 8 << 20;

/// Where models are kept, and who asks for them.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Folder for what is fetched; `None` where none is known.
    pub cache: Option<PathBuf>,
    /// How long the requests for a piece are repeated.
    pub retry_limit: Duration,
    /// Bytes that one request asks for.
    pub piece_bytes: u64,
    /// The variables of the stores' own tools: `AWS_…`, `GOOGLE_…` and `AZURE_…`.
    pub(crate) variables: Vec<(String, String)>,
}

impl StoreSettings {
    /// As the variables say, of which those that are empty count as not set. `cache` goes before them.
    #[must_use]
    pub fn from_environment(cache: Option<&Path>, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables: Vec<_> = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let variable =
            |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| PathBuf::from(value));
        let caches = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        let cache = cache.map(Path::to_owned).or_else(|| Some(caches()?.join("peregrine")));
        Self { cache, retry_limit: Duration::from_secs(120), piece_bytes: PIECE_BYTES, variables }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_the_users() {
        let cache = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            StoreSettings::from_environment(None, variables).cache
        };
        assert_eq!(cache(&[]), None);
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "")]).as_deref(), Some(Path::new("/h/.cache/peregrine")));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).as_deref(), Some(Path::new("/x/peregrine")));
        let given = StoreSettings::from_environment(Some(Path::new("/dev/shm")), []);
        assert_eq!(given.cache.as_deref(), Some(Path::new("/dev/shm")));
    }
}
