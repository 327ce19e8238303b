//! The files of `testdata/golden`.

use super::unpack;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every model that has goldens.
pub const MODELS: [&str; 6] =
    ["falcon-demo", "tiny-falcon-7b", "tiny-falcon-40b", "tiny-falcon-180b", "tiny-falcon-rw", "tiny-falcon2-11b"];

/// Whether this machine has the files of one of [`MODELS`].
#[must_use]
pub fn has(model: &str) -> bool {
    root().join("testdata/golden").join(format!("{model}.json")).is_file() && packed(model).is_dir()
}

/// The folder of one of [`MODELS`]. The small ones are unpacked beside the program that runs, once.
///
/// # Panics
///
/// If the model cannot be read, or not be unpacked.
#[must_use]
pub fn model_dir(model: &str) -> PathBuf {
    match model {
        "falcon-demo" => packed(model),
        _ => unpack::model(&packed(model)).unwrap_or_else(|error| panic!("{model} cannot be unpacked: {error}")),
    }
}

/// The folder of one of [`MODELS`] as the repository has it.
fn packed(model: &str) -> PathBuf {
    match model {
        "falcon-demo" => root().join("crates/runtime/falcon-demo"),
        _ => root().join("testdata/models").join(model),
    }
}

/// The cases of one model.
#[derive(Debug, Deserialize)]
pub struct Golden {
    /// The model.
    pub model: String,
    /// Its prompts.
    pub cases: Vec<Case>,
}

/// One prompt and what follows it.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the file's own")]
pub struct Case {
    pub name: String,
    pub prompt: String,
    pub prompt_ids: Vec<u32>,
    /// Of each token of the prompt; nothing precedes the first.
    pub prompt_logprobs: Vec<Option<f32>>,
    /// Logits at the last position of the prompt, for the whole vocabulary.
    #[serde(rename = "prefill_logits_f32_b64", deserialize_with = "f32s")]
    pub prefill_logits: Vec<f32>,
    /// The largest logits at the last position of the prompt and at those that follow.
    pub top20: Vec<TopLogits>,
    pub greedy: Greedy,
    pub bf16_compute: Bf16Compute,
}

/// How the independent implementation fares if it computes everything in bf16.
#[derive(Clone, Debug, Deserialize)]
pub struct Bf16Compute {
    /// How far its logits behind the golden tokens are off.
    pub max_abs_logit_diff: f32,
}

/// The largest logits at one position.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the file's own")]
pub struct TopLogits {
    pub ids: Vec<u32>,
    pub logits: Vec<f32>,
}

/// The greedy continuation.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the file's own")]
pub struct Greedy {
    pub ids: Vec<u32>,
    pub logprobs: Vec<f32>,
    /// By how much the best logit leads the second at each token.
    pub margins: Vec<f32>,
    pub text: String,
}

/// A greedy continuation with penalties.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are the file's own")]
pub struct PenaltyCase {
    pub prompt_case: String,
    pub prompt_ids: Vec<u32>,
    /// `repetition_penalty`, `frequency_penalty`, or both.
    pub params: BTreeMap<String, f32>,
    pub ids: Vec<u32>,
    pub margins: Vec<f32>,
    pub warped_logprobs: Vec<f32>,
}

/// The residual stream at the last position of one case.
#[derive(Debug)]
pub struct LayerGolden {
    /// The tokens.
    pub prompt_ids: Vec<u32>,
    /// After the embedding, after the first layer, and so on.
    pub residuals: Vec<Vec<f32>>,
}

impl Golden {
    /// The cases of one of [`MODELS`].
    ///
    /// # Panics
    ///
    /// If the file cannot be read.
    #[must_use]
    pub fn of(model: &str) -> Self {
        read(&format!("{model}.json"))
    }

    /// The case of this name.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn case(&self, name: &str) -> &Case {
        self.cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("{}: no case {name}", self.model))
    }
}

impl PenaltyCase {
    /// The cases of one of [`MODELS`].
    ///
    /// # Panics
    ///
    /// If the file cannot be read.
    #[must_use]
    pub fn of(model: &str) -> Vec<Self> {
        #[derive(Deserialize)]
        struct File {
            cases: Vec<PenaltyCase>,
        }
        read::<File>(&format!("{model}.penalties.json")).cases
    }
}

impl LayerGolden {
    /// Of one of [`MODELS`].
    ///
    /// # Panics
    ///
    /// If the file cannot be read.
    #[must_use]
    pub fn of(model: &str) -> Self {
        #[derive(Deserialize)]
        struct File {
            prompt_ids: Vec<u32>,
            modules: BTreeMap<String, Module>,
        }
        #[derive(Deserialize)]
        struct Module {
            #[serde(rename = "last_f32_b64", deserialize_with = "f32s")]
            last: Vec<f32>,
        }
        let mut file: File = read(&format!("{model}.layers.json"));
        let layers = (0..).map(|layer| format!("h.{layer}"));
        let names = std::iter::once("word_embeddings".to_owned()).chain(layers);
        let residuals = names.map_while(|name| file.modules.remove(&name)).map(|module| module.last).collect();
        Self { prompt_ids: file.prompt_ids, residuals }
    }
}

/// The variable that says where this repository's files are, or those of them that are needed, where tests run elsewhere
/// than they were built.
pub const TREE: &str = "PEREGRINE_TREE";

pub(crate) fn root() -> PathBuf {
    std::env::var_os(TREE).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), PathBuf::from)
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = root().join("testdata/golden").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Little-endian f32 in base64.
fn f32s<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
    let (words, []) = bytes.as_chunks::<4>() else {
        return Err(serde::de::Error::custom(format!("{} bytes are no whole number of f32", bytes.len())));
    };
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}
