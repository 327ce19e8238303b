//! What is asked.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal, Normal};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The prompts of the examples.
const JUMPSTART: &str = include_str!("../../../scripts/examples/prompts.json");

/// Words of which prompts are made. Most tokenizers have each of them, with its space, as one token.
const WORDS: &str = include_str!("words.txt");

/// One request of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is to be continued.
    pub prompt: Prompt,
    /// How it is continued.
    pub parameters: Parameters,
    /// Go on after the end of the text, so that every answer has `max_new_tokens`.
    pub ignore_eos: bool,
    /// The caller gives up after so many tokens.
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

/// How a prompt is continued: the few parameters that benchmarks use, under TGI's names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// The most tokens to generate.
    pub max_new_tokens: u32,
    /// Logits are divided by it.
    pub temperature: Option<f32>,
    /// Draw from the most probable tokens up to this mass.
    pub top_p: Option<f32>,
    /// Of the draws.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// Where requests come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Dataset {
    /// Random prompts of given lengths.
    Lengths(Lengths),
    /// Conversations of a file in the format of ShareGPT: the first question, and as many tokens as its answer has words.
    ShareGpt(PathBuf),
    /// The prompts and parameters of `scripts/examples`, over and over.
    JumpStart,
}

/// Lengths of prompts and answers, in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// Tokens at the begin that all prompts share.
    pub shared: u32,
    /// Tokens of the prompt that are its own.
    pub input: Length,
    /// Tokens of the answer.
    pub output: Length,
}

/// A distribution of lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Always the same: `128`.
    Fixed(u32),
    /// Each between the two, both included, equally often: `64-512`.
    Uniform(u32, u32),
    /// `normal:MEAN:DEVIATION`.
    Normal(f64, f64),
    /// With long tails, as lengths of chats have: `log:MEDIAN:SIGMA`.
    LogNormal(f64, f64),
}

/// Why there are no requests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// What was given is no dataset.
    #[error(
        "{given:?} is no dataset: expected IN/OUT, as in 128/128, 64-512/log:100:0.8 or 1024+64/32 (1024 shared \
             tokens), sharegpt:FILE, or jumpstart"
    )]
    Unknown {
        /// It.
        given: String,
    },
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not in ShareGPT's format.
    #[error("{}: {error}; expected a list of {{\"conversations\": [{{\"from\": …, \"value\": …}}, …]}}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Where it differs.
        error: serde_json::Error,
    },
    /// A file has no conversation of two turns.
    #[error("{}: there is no conversation with a question and an answer", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
}

impl FromStr for Dataset {
    type Err = DatasetError;

    fn from_str(given: &str) -> Result<Self, DatasetError> {
        if given == "jumpstart" {
            return Ok(Self::JumpStart);
        }
        if let Some(path) = given.strip_prefix("sharegpt:") {
            return Ok(Self::ShareGpt(path.into()));
        }
        lengths(given).map(Self::Lengths).ok_or_else(|| DatasetError::Unknown { given: given.to_owned() })
    }
}

fn lengths(given: &str) -> Option<Lengths> {
    let (input, output) = given.split_once('/')?;
    let (shared, input) = input.split_once('+').unwrap_or(("0", input));
    Some(Lengths { shared: shared.parse().ok()?, input: length(input)?, output: length(output)? })
}

fn length(given: &str) -> Option<Length> {
    let parts: Vec<&str> = given.split(':').collect();
    let positive = |text: &str| text.parse().ok().filter(|&number: &f64| number > 0.0 && number.is_finite());
    match parts[..] {
        ["normal", mean, deviation] => Some(Length::Normal(positive(mean)?, positive(deviation)?)),
        ["log", median, sigma] => Some(Length::LogNormal(positive(median)?, positive(sigma)?)),
        [range] => match range.split_once('-') {
            Some((low, high)) => {
                let (low, high) = (low.parse().ok()?, high.parse().ok()?);
                (0 < low && low <= high).then_some(Length::Uniform(low, high))
            }
            None => range.parse().ok().filter(|&tokens| tokens > 0).map(Length::Fixed),
        },
        _ => None,
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JumpStart => f.write_str("jumpstart"),
            Self::ShareGpt(path) => write!(f, "sharegpt:{}", path.display()),
            Self::Lengths(Lengths { shared: 0, input, output }) => write!(f, "{input}/{output}"),
            Self::Lengths(Lengths { shared, input, output }) => write!(f, "{shared}+{input}/{output}"),
        }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform(low, high) => write!(f, "{low}-{high}"),
            Self::Normal(mean, deviation) => write!(f, "normal:{mean}:{deviation}"),
            Self::LogNormal(median, sigma) => write!(f, "log:{median}:{sigma}"),
        }
    }
}

impl Length {
    /// A length, at least 1.
    fn draw(self, random: &mut StdRng) -> usize {
        let drawn = match self {
            Self::Fixed(tokens) => return tokens as usize,
            Self::Uniform(low, high) => return random.random_range(low..=high) as usize,
            Self::Normal(mean, deviation) => Normal::new(mean, deviation).expect("positive").sample(random),
            Self::LogNormal(median, sigma) => LogNormal::new(median.ln(), sigma).expect("positive").sample(random),
        };
        drawn.round().max(1.0) as usize
    }
}

/// Tokens, or words, of which random prompts are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Token ids.
    Ids(Vec<u32>),
    /// Words that stand for tokens.
    Words,
}

impl Alphabet {
    /// The text whose tokens make an alphabet of ids.
    #[must_use]
    pub fn text() -> String {
        WORDS.split_whitespace().map(|word| format!(" {word}")).collect()
    }

    fn prompt(&self, shared: usize, own: usize, seed: u64, random: &mut StdRng) -> Prompt {
        // The shared part is the same in every prompt of a seed.
        let mut common = StdRng::seed_from_u64(!seed);
        let mut indices = |letters: usize| -> Vec<usize> {
            let common = (0..shared).map(|_| common.random_range(0..letters));
            let own = (0..own).map(|_| random.random_range(0..letters));
            common.chain(own).collect()
        };
        match self {
            Self::Ids(ids) => Prompt::Ids(indices(ids.len()).into_iter().map(|index| ids[index]).collect()),
            Self::Words => {
                let words: Vec<&str> = WORDS.split_whitespace().collect();
                Prompt::Text(indices(words.len()).into_iter().flat_map(|index| [" ", words[index]]).collect())
            }
        }
    }
}

impl Dataset {
    /// `count` requests, the same for the same seed and run. Random prompts of different runs share what they are to share,
    /// and nothing else: a server that remembers prompts must not know those of the run before.
    ///
    /// # Errors
    ///
    /// [`DatasetError`], if a file cannot be used.
    pub fn requests(
        &self,
        count: usize,
        alphabet: &Alphabet,
        seed: u64,
        run: u64,
    ) -> Result<Vec<Request>, DatasetError> {
        let pool = match self {
            Self::Lengths(lengths) => return Ok(random_requests(lengths, count, alphabet, seed, run)),
            Self::ShareGpt(path) => share_gpt(path)?,
            Self::JumpStart => jumpstart(),
        };
        Ok(pool.into_iter().cycle().take(count).collect())
    }
}

fn random_requests(lengths: &Lengths, count: usize, alphabet: &Alphabet, seed: u64, run: u64) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed.rotate_left(32).wrapping_add(run));
    let request = |_| {
        let (own, answer) = (lengths.input.draw(&mut random), lengths.output.draw(&mut random));
        let max_new_tokens = u32::try_from(answer).unwrap_or(u32::MAX);
        Request {
            prompt: alphabet.prompt(lengths.shared as usize, own, seed, &mut random),
            parameters: Parameters { max_new_tokens, ..Parameters::default() },
            ignore_eos: true,
            cancel_after: None,
        }
    };
    (0..count).map(request).collect()
}

#[derive(Deserialize)]
struct Conversation {
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

fn share_gpt(path: &Path) -> Result<Vec<Request>, DatasetError> {
    let text = std::fs::read_to_string(path).map_err(|error| DatasetError::File { path: path.to_owned(), error })?;
    let parsed: Result<Vec<Conversation>, _> = serde_json::from_str(&text);
    let conversations = parsed.map_err(|error| DatasetError::Format { path: path.to_owned(), error })?;
    let request = |conversation: Conversation| {
        let [question, answer, ..] = &conversation.conversations[..] else { return None };
        // A word of English has some four tokens to three words.
        let tokens = answer.value.split_whitespace().count() * 4 / 3;
        let max_new_tokens = u32::try_from(tokens.max(1)).unwrap_or(u32::MAX);
        (!question.value.is_empty()).then(|| Request {
            prompt: Prompt::Text(question.value.clone()),
            parameters: Parameters { max_new_tokens, ..Parameters::default() },
            ignore_eos: true,
            cancel_after: None,
        })
    };
    let requests: Vec<_> = conversations.into_iter().filter_map(request).collect();
    if requests.is_empty() { Err(DatasetError::Empty { path: path.to_owned() }) } else { Ok(requests) }
}

#[derive(Deserialize)]
struct Examples {
    base_parameters: Parameters,
    chat_parameters: Parameters,
    requests: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    model: String,
    inputs: String,
    parameters: Option<Parameters>,
}

fn jumpstart() -> Vec<Request> {
    let examples: Examples = serde_json::from_str(JUMPSTART).expect("the examples are well formed");
    let Examples { base_parameters, chat_parameters, requests } = examples;
    let request = |example: Example| {
        let usual = if example.model == "base" { &base_parameters } else { &chat_parameters };
        Request {
            prompt: Prompt::Text(example.inputs),
            parameters: example.parameters.unwrap_or_else(|| usual.clone()),
            ignore_eos: false,
            cancel_after: None,
        }
    };
    requests.into_iter().map(request).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_are_read_as_they_are_written() {
        for text in ["128/128", "64-512/log:100:0.8", "1024+64/32", "normal:300:50/1", "sharegpt:a.json", "jumpstart"] {
            assert_eq!(text.parse::<Dataset>().expect("well formed").to_string(), text);
        }
        for text in ["", "128", "0/1", "1/0", "9-3/1", "log:1/1", "normal:-1:2/3", "x+1/2", "1/2/3", "log:nan:1/1"] {
            let error = text.parse::<Dataset>().expect_err("no dataset").to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn prompts_have_their_lengths_and_share_what_they_should() {
        let alphabet = Alphabet::Ids((10..500).collect());
        let dataset: Dataset = "32+4-9/7".parse().expect("well formed");
        let made = |seed, run| dataset.requests(50, &alphabet, seed, run).expect("no file");
        let requests = made(3, 1);
        assert_eq!(requests, made(3, 1));
        let ids = |request: &Request| match &request.prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => panic!("{text}"),
        };
        let first = ids(&requests[0]);
        for request in &requests {
            let prompt = ids(request);
            assert!((36..=41).contains(&prompt.len()), "{}", prompt.len());
            assert_eq!(prompt[..32], first[..32]);
            assert_eq!((request.parameters.max_new_tokens, request.ignore_eos), (7, true));
        }
        assert!(requests[1..].iter().all(|request| ids(request)[32..] != first[32..]));
        let (other_run, other_seed) = (ids(&made(3, 2)[0]), ids(&made(4, 1)[0]));
        assert!(other_run[..32] == first[..32] && other_run[32..] != first[32..]);
        assert!(other_seed[..32] != first[..32] && other_seed[32..] != first[32..]);
        let Prompt::Text(text) = &dataset.requests(1, &Alphabet::Words, 3, 0).expect("no file")[0].prompt else {
            panic!()
        };
        assert!((36..=41).contains(&text.split_whitespace().count()), "{text}");
    }

    #[test]
    fn lengths_follow_their_distributions() {
        let mut random = StdRng::seed_from_u64(1);
        let mut drawn = |length: Length| -> Vec<usize> {
            let mut drawn: Vec<_> = (0..20_001).map(|_| length.draw(&mut random)).collect();
            drawn.sort_unstable();
            drawn
        };
        let uniform = drawn(Length::Uniform(3, 5));
        assert_eq!((uniform[0], uniform[10_000], uniform[20_000]), (3, 4, 5));
        let normal = drawn(Length::Normal(100.0, 10.0));
        assert!((99..=101).contains(&normal[10_000]) && (108..=112).contains(&normal[16_827]), "{}", normal[16_827]);
        let log = drawn(Length::LogNormal(100.0, 1.0));
        assert!((96..=104).contains(&log[10_000]) && (258..=286).contains(&log[16_827]), "{}", log[16_827]);
    }

    #[test]
    fn the_examples_keep_their_parameters() {
        let requests = jumpstart();
        assert!(requests.len() > 10);
        assert_eq!(requests[0].parameters.max_new_tokens, 768);
        let drawn = requests.iter().find(|request| request.parameters.top_p.is_some()).expect("one draws");
        assert_eq!((drawn.parameters.top_p, drawn.parameters.temperature), (Some(0.9), Some(0.6)));
    }

    #[test]
    fn a_file_of_conversations_is_read() {
        let path = std::env::temp_dir().join(format!("peregrine-sharegpt-{}.json", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a temporary file");
            share_gpt(&path)
        };
        let turn = |from: &str, value: &str| format!(r#"{{"from": "{from}", "value": "{value}"}}"#);
        let talk = |turns: &[String]| format!(r#"{{"id": "x", "conversations": [{}]}}"#, turns.join(","));
        let (question, answer) = (turn("human", "Why?"), turn("gpt", "Because of six more words."));
        let both = format!("[{}, {}]", talk(&[question.clone(), answer]), talk(std::slice::from_ref(&question)));
        let requests = read(&both).expect("well formed");
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].prompt, Prompt::Text("Why?".to_owned()));
        assert_eq!(requests[0].parameters.max_new_tokens, 6);
        assert!(read("[]").expect_err("empty").to_string().contains("there is no conversation"));
        assert!(read("{}").expect_err("no list").to_string().contains("expected a list of"));
        std::fs::remove_file(&path).expect("written above");
        assert!(share_gpt(&path).expect_err("gone").to_string().contains("peregrine-sharegpt"));
    }
}
