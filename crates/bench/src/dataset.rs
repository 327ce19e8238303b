//! What the requests of a benchmark ask.

mod conversations;
mod examples;
mod lengths;
mod vocabulary;

use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use lengths::Lengths;
pub use vocabulary::Vocabulary;

/// One request of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is to be continued.
    pub prompt: Prompt,
    /// How it is continued.
    pub parameters: Parameters,
    /// Generate past the end-of-text token, so that every answer has `max_new_tokens`.
    pub ignore_eos: bool,
    /// The client cancels after this many tokens.
    pub cancel_after: Option<u32>,
}

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// As token ids.
    Ids(Vec<u32>),
    /// As text.
    Text(String),
}

/// The generation parameters that benchmarks use, under TGI's names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// The most tokens to generate.
    pub max_new_tokens: u32,
    /// Logits are divided by it.
    pub temperature: Option<f32>,
    /// Nucleus sampling: draw from the most probable tokens up to this mass.
    pub top_p: Option<f32>,
    /// Seed of the sampler.
    pub seed: Option<u64>,
    /// Strings that end the answer.
    pub stop: Vec<String>,
}

impl Request {
    /// A request for an answer of exactly `tokens` tokens.
    fn of_length(prompt: Prompt, tokens: usize) -> Self {
        let max_new_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let parameters = Parameters { max_new_tokens, ..Parameters::default() };
        Self { prompt, parameters, ignore_eos: true, cancel_after: None }
    }
}

/// Where requests come from, as given on the command line.
#[derive(Clone, Debug, PartialEq)]
pub enum Dataset {
    /// Random prompts of given lengths.
    Random(Lengths),
    /// Conversations of a file in ShareGPT's format: the first question, and as many tokens as its answer has.
    ShareGpt(PathBuf),
    /// The prompts and parameters of `scripts/examples`, repeated.
    JumpStart,
}

/// A dataset whose files have been read.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Random(Lengths),
    /// At least one request.
    Fixed(Vec<Request>),
}

/// Why a dataset cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum DatasetError {
    /// The argument is not a dataset.
    #[error(
        "{given:?} is no dataset: expected IN/OUT, as in 128/128, 64-512/log:100:0.8 or 1024+64/32 (1024 shared \
             tokens), each length from 1 to {max}, sharegpt:FILE, or jumpstart",
        max = lengths::LENGTH_MAX
    )]
    Unknown { given: String },
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    /// The file is not in ShareGPT's format.
    #[error("{}: {error}; expected a list of {{\"conversations\": [{{\"from\": …, \"value\": …}}, …]}}", path.display())]
    Format { path: PathBuf, error: serde_json::Error },
    /// The file has no conversation of two turns.
    #[error("{}: there is no conversation with a question and an answer", path.display())]
    Empty { path: PathBuf },
}

impl FromStr for Dataset {
    type Err = DatasetError;

    fn from_str(given: &str) -> Result<Self, DatasetError> {
        if given == "jumpstart" {
            return Ok(Self::JumpStart);
        }
        match given.split_once(':') {
            Some(("sharegpt", path)) if !path.is_empty() => Ok(Self::ShareGpt(path.into())),
            _ => {
                let lengths = Lengths::parse(given).ok_or_else(|| DatasetError::Unknown { given: given.to_owned() });
                lengths.map(Self::Random)
            }
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random(lengths) => lengths.fmt(f),
            Self::ShareGpt(path) => write!(f, "sharegpt:{}", path.display()),
            Self::JumpStart => f.write_str("jumpstart"),
        }
    }
}

impl Dataset {
    /// Reads the dataset's file, if it has one.
    pub(crate) fn load(&self) -> Result<Source, DatasetError> {
        Ok(match self {
            Self::Random(lengths) => Source::Random(lengths.clone()),
            Self::ShareGpt(path) => Source::Fixed(conversations::read(path)?),
            Self::JumpStart => Source::Fixed(examples::requests()),
        })
    }
}

impl Source {
    /// `count` requests, the same for the same seed and run. Random prompts of different runs share their common prefix and
    /// nothing else: a server with a prefix cache must not know them from the run before.
    pub(crate) fn requests(&self, count: usize, vocabulary: &Vocabulary, seed: u64, run: u64) -> Vec<Request> {
        match self {
            Self::Random(lengths) => lengths.requests(count, vocabulary, seed, run),
            Self::Fixed(requests) => requests.iter().cycle().take(count).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_are_read_as_they_are_written() {
        for text in ["128/128", "64-512/log:100:0.8", "1024+64/32", "normal:300:50/1", "sharegpt:a.json", "jumpstart"] {
            assert_eq!(text.parse::<Dataset>().expect("well formed").to_string(), text);
        }
        for text in [
            "",
            "128",
            "0/1",
            "1/0",
            "9-3/1",
            "log:1/1",
            "normal:-1:2/3",
            "x+1/2",
            "1/2/3",
            "log:nan:1/1",
            "sharegpt:",
            "1048577/1",
            "1/1-1048577",
            "1048577+1/1",
        ] {
            let error = text.parse::<Dataset>().expect_err("no dataset").to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
