//! The folders of `testdata/checkpoints`, which its `make.py` writes.

use super::check::{close, compared};
use super::files::root;
use super::{Observed, Tolerance, unpack};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A folder as transformers wrote it, and what a reader must make of it.
#[derive(Debug)]
pub struct CheckpointCase {
    /// The folder's name, which says what it is about.
    pub name: String,
    /// The folder, unpacked.
    pub dir: PathBuf,
    expected: Expected,
}

/// `expected.json`.
#[derive(Debug, Deserialize)]
struct Expected {
    equals: Option<Answer>,
    refused: Option<Vec<String>>,
}

/// What transformers' float32 forward pass answers.
#[derive(Debug, Deserialize)]
struct Answer {
    prompt: Vec<u32>,
    /// Of each token of the prompt but the first.
    prompt_logprobs: Vec<f32>,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    margins: Vec<f32>,
}

/// All of them, by name.
///
/// # Panics
///
/// If one cannot be read or unpacked.
#[must_use]
pub fn checkpoints() -> Vec<CheckpointCase> {
    let all = root().join("testdata/checkpoints");
    let entries = std::fs::read_dir(&all).unwrap_or_else(|error| panic!("{}: {error}", all.display()));
    let mut dirs: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
    dirs.sort_unstable();
    dirs.iter().map(|packed| case(packed)).collect()
}

fn case(packed: &Path) -> CheckpointCase {
    let name = packed.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = unpack::model(packed).unwrap_or_else(|error| panic!("{name} cannot be unpacked: {error}"));
    let json = std::fs::read(dir.join("expected.json")).unwrap_or_else(|error| panic!("{name}/expected.json: {error}"));
    let expected: Expected =
        serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{name}/expected.json: {error}"));
    assert!(expected.equals.is_some() != expected.refused.is_some(), "{name}: either equals or refused");
    CheckpointCase { name, dir, expected }
}

impl CheckpointCase {
    /// The prompt and the number of greedy tokens to be held against [`check`](Self::check); `None` if it must be refused.
    #[must_use]
    pub fn prompt(&self) -> Option<(&[u32], usize)> {
        self.expected.equals.as_ref().map(|answer| (&*answer.prompt, answer.ids.len()))
    }

    /// Holds a greedy continuation of the prompt against that of transformers. Returns what does not fit.
    #[must_use]
    pub fn check(&self, observed: &Observed, tolerance: Tolerance) -> Vec<String> {
        let Some(answer) = &self.expected.equals else { return vec![format!("{}: must be refused", self.name)] };
        let mut wrong = Vec::new();
        close("prompt logprob", &observed.prompt_logprobs, &answer.prompt_logprobs, tolerance, &mut wrong);
        let same = compared(&observed.tokens, &answer.ids, &answer.margins, tolerance, &mut wrong);
        close("logprob", &observed.logprobs[..same], &answer.logprobs[..same], tolerance, &mut wrong);
        wrong.into_iter().map(|what| format!("{}: {what}", self.name)).collect()
    }

    /// Holds the error of opening it against the words that it must have. Returns those that it lacks.
    #[must_use]
    pub fn check_refusal(&self, error: Option<&str>) -> Vec<String> {
        let lacking = |word: &&String| error.is_none_or(|error| !error.contains(&***word));
        let words = self.expected.refused.iter().flatten().filter(lacking);
        words.map(|word| format!("{}: expected an error with {word:?}, found {error:?}", self.name)).collect()
    }
}
