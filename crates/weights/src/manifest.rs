//! `shards.json`, the manifest of a model that was cut for its ranks: which files there are, and what is in them.

use crate::WeightsError;
use crate::layout::{self, MANIFEST};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

const FORMAT: &str = "peregrine-shards";
const VERSION: u32 = 1;

/// What `peregrine shard` has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: u32,
    /// Ranks for which the model is cut.
    pub tensor_parallel: usize,
    /// A SHA-256 of config.json, and of the name, the type, the shape and the CRC-32 of every tensor: the same for every
    /// number of ranks.
    pub fingerprint: String,
    /// Whether the output projection is the embedding table.
    pub tied: bool,
    /// The file of each rank.
    pub ranks: Vec<RankFile>,
    /// The others, such as config.json and the tokenizer.
    pub files: Vec<OtherFile>,
}

/// The file of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankFile {
    /// Its name and what is in it.
    #[serde(flatten)]
    pub file: OtherFile,
    /// The CRC-32 of each of its tensors, by name.
    pub tensors: BTreeMap<String, Crc32>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherFile {
    /// Its plain name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Of all its bytes.
    pub crc32: Crc32,
}

/// A CRC-32 (of ISO 3309, as in zip and zlib), which is written as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Crc32(pub u32);

impl fmt::Display for Crc32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl From<Crc32> for String {
    fn from(crc32: Crc32) -> Self {
        crc32.to_string()
    }
}

impl TryFrom<String> for Crc32 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_hex = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let parsed = if is_hex { u32::from_str_radix(&text, 16).ok() } else { None };
        parsed.map(Self).ok_or_else(|| format!("expected a CRC-32 of eight hexadecimal digits, found {text:?}"))
    }
}

impl Manifest {
    pub(crate) fn new(fingerprint: String, tied: bool, ranks: Vec<RankFile>, files: Vec<OtherFile>) -> Self {
        let (format, tensor_parallel) = (FORMAT.to_owned(), ranks.len());
        Self { format, version: VERSION, tensor_parallel, fingerprint, tied, ranks, files }
    }

    /// Reads the manifest of the folder `dir`; `None` if there is none, so that the model is not cut.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or makes no sense.
    pub fn read(dir: &Path) -> Result<Option<Self>, WeightsError> {
        let path = dir.join(MANIFEST);
        if !path.is_file() {
            return Ok(None);
        }
        let parsed = Self::parse(&layout::read(&path)?);
        parsed.map(Some).map_err(|reason| WeightsError::Manifest { path, reason })
    }

    /// Parses the text of a manifest.
    ///
    /// # Errors
    ///
    /// What was expected and what was found.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let Self { format, version, tensor_parallel, ranks, files, .. } = &manifest;
        if format != FORMAT {
            return Err(format!("`format`: expected {FORMAT:?}, found {format:?}"));
        }
        if *version != VERSION {
            return Err(format!("`version`: expected {VERSION}, which this program knows, found {version}"));
        }
        if *tensor_parallel == 0 || *tensor_parallel != ranks.len() {
            return Err(format!("`tensor_parallel` is {tensor_parallel}, but `ranks` lists {}", ranks.len()));
        }
        let names = ranks.iter().map(|rank| &rank.file.name).chain(files.iter().map(|file| &file.name));
        // It comes with a download and must not lead out of its directory.
        for name in names {
            if !layout::is_plain_name(name) {
                return Err(format!("`name`: expected the name of a file in the same folder, found {name:?}"));
            }
        }
        Ok(manifest)
    }

    /// As it is written.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("names and numbers");
        json.push(b'\n');
        json
    }
}

impl OtherFile {
    /// Holds the length of the file in `dir` against the manifest.
    ///
    /// # Errors
    ///
    /// If it is missing, or has another length.
    pub(crate) fn check_length(&self, dir: &Path) -> Result<(), WeightsError> {
        let path = dir.join(&self.name);
        let found = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() == self.bytes => return Ok(()),
            Ok(metadata) => format!("{} bytes", metadata.len()),
            Err(error) => error.to_string(),
        };
        Err(WeightsError::FileChanged { path, expected: format!("{} bytes", self.bytes), found })
    }

    /// Holds the whole file in `dir` against the manifest.
    ///
    /// # Errors
    ///
    /// If it is missing, or other than it was.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), WeightsError> {
        self.check_length(dir)?;
        let path = dir.join(&self.name);
        let found = Crc32(crc32fast::hash(&layout::read(&path)?));
        if found == self.crc32 {
            return Ok(());
        }
        let (expected, found) = (format!("a CRC-32 of {}", self.crc32), found.to_string());
        Err(WeightsError::FileChanged { path, expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let file = |name: &str| OtherFile { name: name.to_owned(), bytes: 7, crc32: Crc32(0x0a0b) };
        let tensors = BTreeMap::from([("w".to_owned(), Crc32(u32::MAX))]);
        let ranks = vec![RankFile { file: file("rank-0-of-1.safetensors"), tensors }];
        Manifest::new("ab".to_owned(), true, ranks, vec![file("config.json")])
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Manifest::parse(&sample().to_json()), Ok(sample()));
        let text = String::from_utf8(sample().to_json()).unwrap();
        assert!(text.contains(r#""crc32": "00000a0b""#) && text.contains(r#""w": "ffffffff""#), "{text}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_field() {
        let text = String::from_utf8(sample().to_json()).unwrap();
        let cases = [
            ("{", "}", "expected value"),
            ("peregrine-shards", "other", "`format`"),
            (r#""version": 1"#, r#""version": 2"#, "`version`: expected 1"),
            (r#""tensor_parallel": 1"#, r#""tensor_parallel": 2"#, "`ranks` lists 1"),
            ("config.json", "../config.json", "found \"../config.json\""),
            ("rank-0-of-1", "a/b", "found \"a/b.safetensors\""),
            ("ffffffff", "fffffff", "eight hexadecimal digits"),
            ("ffffffff", "+fffffff", "eight hexadecimal digits"),
            (r#""tied": true,"#, "", "missing field `tied`"),
        ];
        for (from, to, expected) in cases {
            let error = Manifest::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{from}: {error}");
        }
    }
}
