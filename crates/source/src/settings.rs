//! Where the hub and its cache are, and who asks: by the variables of Hugging Face's own tools.

use crate::SourceError;
use reqwest::Url;
use reqwest::header::HeaderValue;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub, where no other is named.
const ENDPOINT: &str = "https://huggingface.co";
/// The token, in the order in which they are looked at.
const TOKENS: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// Folders for the cache, in the order in which they are looked at.
const CACHES: [&str; 2] = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"];
/// Switches that keep the hub from being asked.
const OFFLINE: [&str; 2] = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];

/// Where the hub and its cache are, and who asks.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Folder of the cache.
    pub cache: PathBuf,
    /// The hub is not asked: what is not in the cache is an error.
    pub offline: bool,
    /// How long the first pause before another try is; each further one is twice as long.
    pub pause: Duration,
    pub(crate) endpoint: Url,
    /// `Bearer` and the token, if there is one.
    pub(crate) authorization: Option<HeaderValue>,
}

impl HubSettings {
    /// As the variables say, of which those that are empty count as not set: `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, and older names of these. `cache`
    /// goes before them.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: a variable is not what it should be, the token's file cannot be read, or no folder is known.
    pub fn from_environment(
        cache: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SourceError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let first = |names: [&str; 2]| names.into_iter().find_map(variable);
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache = cache.map(Path::to_owned).or_else(|| first(CACHES).map(PathBuf::from));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or(SourceError::NoCache)?;
        let is_set = |value: Option<OsString>| {
            value.is_some_and(|value| {
                let value = value.to_string_lossy().to_uppercase();
                ["1", "ON", "YES", "TRUE"].contains(&&*value)
            })
        };
        let mut token = first(TOKENS).map(|token| ("HF_TOKEN".to_owned(), token.to_string_lossy().into_owned()));
        let file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        if let Some(file) = file.filter(|_| token.is_none() && !is_set(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) {
            token = read_token(&file)?.map(|token| (file.display().to_string(), token));
        }
        Ok(Self {
            cache,
            offline: is_set(first(OFFLINE)),
            pause: Duration::from_millis(500),
            endpoint: endpoint(variable("HF_ENDPOINT"))?,
            authorization: token.map(|(place, token)| bearer(&place, token.trim())).transpose()?,
        })
    }
}

fn endpoint(given: Option<OsString>) -> Result<Url, SourceError> {
    let text = given.map_or_else(|| ENDPOINT.to_owned(), |given| given.to_string_lossy().into_owned());
    let url = Url::parse(text.trim_end_matches('/')).ok();
    let usable = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.query().is_none());
    usable.ok_or(SourceError::Endpoint { found: text })
}

/// The token in a file, if there are both.
fn read_token(file: &Path) -> Result<Option<String>, SourceError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
        Err(reason) => Err(SourceError::Io { path: file.to_owned(), reason }),
    }
}

fn bearer(place: &str, token: &str) -> Result<HeaderValue, SourceError> {
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| SourceError::Token { place: place.to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<HubSettings, SourceError> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        HubSettings::from_environment(None, find)
    }

    fn cache(variables: &[(&str, &str)]) -> PathBuf {
        of(variables).expect("they are well formed").cache
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        let home = [("HOME", "/h")];
        assert_eq!(cache(&home), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[home[0], ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[home[0], ("HF_HOME", "/f")]), Path::new("/f/hub"));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/o")]), Path::new("/o"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/n")]), Path::new("/n"));
        let given = HubSettings::from_environment(Some(Path::new("/g")), |_| Some("/v".into()));
        assert!(given.is_err_and(|error| error.to_string().contains("HF_ENDPOINT")), "all variables are /v");
        assert!(of(&[]).is_err_and(|error| error.to_string().contains("HF_HOME")));
    }

    #[test]
    fn the_hub_is_not_asked_if_either_switch_is_on() {
        let offline = |name, value| of(&[("HOME", "/h"), (name, value)]).expect("it is well formed").offline;
        for on in ["1", "on", "YES", "True"] {
            assert!(offline("HF_HUB_OFFLINE", on) && offline("TRANSFORMERS_OFFLINE", on), "{on}");
        }
        for off in ["0", "", "no", "2"] {
            assert!(!offline("HF_HUB_OFFLINE", off), "{off}");
        }
    }

    #[test]
    fn a_token_is_a_variables_or_a_files() {
        let home = tempfile::tempdir().expect("a folder");
        let here = home.path().to_str().expect("UTF-8");
        let shown = |more: &[(&str, &str)]| {
            let settings = of(&[&[("HF_HOME", here)], more].concat()).expect("it is well formed");
            assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
            settings.authorization.map(|value| value.to_str().expect("ASCII").to_owned())
        };
        assert_eq!(shown(&[]), None);
        std::fs::write(home.path().join("token"), " secret-file\n").expect("a file");
        assert_eq!(shown(&[]).as_deref(), Some("Bearer secret-file"));
        assert_eq!(shown(&[("HF_TOKEN", "secret")]).as_deref(), Some("Bearer secret"));
        assert_eq!(shown(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(shown(&[("HF_TOKEN_PATH", "/no/such/file")]), None);
        let error = of(&[("HF_HOME", here), ("HF_TOKEN", "a\nb")]).expect_err("it cannot be sent").to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("a\nb"), "{error}");
    }

    #[test]
    fn a_mirror_is_a_url() {
        let of = |value| of(&[("HOME", "/h"), ("HF_ENDPOINT", value)]);
        assert_eq!(of("https://mirror/hf/").expect("a URL").endpoint.as_str(), "https://mirror/hf");
        for wrong in ["mirror", "ftp://mirror", "https://a/?b"] {
            assert!(of(wrong).is_err_and(|error| error.to_string().contains(wrong)), "{wrong}");
        }
    }
}
