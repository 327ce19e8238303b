//! Names of models in object stores.

use super::StoreError;
use std::fmt;
use std::path::{Path, PathBuf};

/// A store whose protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    S3,
    Gs,
    Az,
}

const SCHEMES: [(&str, Scheme); 3] = [("s3", Scheme::S3), ("gs", Scheme::Gs), ("az", Scheme::Az)];

/// A model in an object store: all objects whose names begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl {
    pub(crate) scheme: Scheme,
    pub(crate) bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub(crate) prefix: String,
}

impl StoreUrl {
    /// `s3://BUCKET/PREFIX`, and so with `gs://` and `az://`; `None` if it is no URL.
    ///
    /// # Errors
    ///
    /// [`StoreError::Url`]: it is a URL, and not one of these.
    pub fn parse(text: &str) -> Option<Result<Self, StoreError>> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = SCHEMES.iter().find(|(name, _)| *name == scheme).map(|(_, scheme)| *scheme);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
        let is_prefix = prefix.is_empty() || prefix.split('/').all(is_part);
        Some(match scheme {
            Some(scheme) if is_part(bucket) && is_prefix => {
                Ok(Self { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            _ => Err(StoreError::Url { url: text.to_owned() }),
        })
    }

    /// What the model is called: the last part of the prefix, or the bucket.
    #[must_use]
    pub fn name(&self) -> &str {
        self.prefix.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&self.bucket)
    }

    /// The URL of one of the objects.
    pub(crate) fn object(&self, name: &str) -> String {
        format!("{self}/{name}")
    }

    /// The key of one of the objects.
    pub(crate) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// The folder for the objects within the folder `cache`.
    pub(crate) fn folder_in(&self, cache: &Path) -> PathBuf {
        cache.join(self.scheme.name()).join(&self.bucket).join(&self.prefix)
    }
}

impl Scheme {
    pub(crate) fn name(self) -> &'static str {
        SCHEMES.iter().find(|(_, scheme)| *scheme == self).expect("all are listed").0
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_bucket_and_a_prefix() {
        let of = |text: &str| StoreUrl::parse(text).map(|url| url.expect("a store").to_string());
        assert_eq!(of("s3://models/falcon/40b/").as_deref(), Some("s3://models/falcon/40b"));
        assert_eq!(of("gs://models").as_deref(), Some("gs://models"));
        for none in ["models/falcon", "/models", "s3:/x", ""] {
            assert!(StoreUrl::parse(none).is_none(), "{none}");
        }
        for wrong in ["s3://", "s3:///x", "http://host/x", "s3://b/../x", "s3://b//x", "s3://../x", "s3://b/a\nb"] {
            let error = StoreUrl::parse(wrong).expect("a URL").expect_err("no store").to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }

    #[test]
    fn objects_and_folders_have_its_parts() {
        let url = |text| StoreUrl::parse(text).expect("a URL").expect("a store");
        let (deep, flat) = (url("s3://models/falcon/40b"), url("az://models"));
        assert_eq!((deep.name(), flat.name()), ("40b", "models"));
        assert_eq!((&*deep.key("a"), &*flat.key("a")), ("falcon/40b/a", "a"));
        assert_eq!((&*deep.object("a"), &*flat.object("a")), ("s3://models/falcon/40b/a", "az://models/a"));
        assert_eq!(deep.folder_in(Path::new("/c")), Path::new("/c/s3/models/falcon/40b"));
    }
}
