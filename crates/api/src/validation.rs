//! From a request as it comes to one that can be run.

use step::{Choice, ParamError, SamplingParams, SamplingSettings};

use crate::{GenerateRequest, Inputs, Parameters, Priority};

const DEFAULT_MAX_NEW_TOKENS: u32 = 20;

/// The most that a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a prompt, after truncation.
    pub max_input_length: usize,
    /// Tokens of a prompt together with those to be generated.
    pub max_total_tokens: usize,
    /// Continuations of one prompt.
    pub max_best_of: usize,
    /// Stop strings.
    pub max_stop_sequences: usize,
    /// Most probable tokens beside each token.
    pub max_top_n_tokens: u32,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
}

impl Limits {
    /// The limits that a model of `max_positions` positions and `vocab_size` tokens sets, and TGI's others.
    #[must_use]
    pub fn of_model(max_positions: usize, vocab_size: usize) -> Self {
        Self {
            max_input_length: max_positions - 1,
            max_total_tokens: max_positions,
            max_best_of: 2,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            vocab_size,
        }
    }
}

/// Why a request is rejected. The messages are TGI's, where TGI has the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValidationError {
    /// More continuations than the limit.
    #[error("`best_of` must be > 0 and <= {max}. Given: {given}")]
    BestOf {
        /// The limit.
        max: usize,
        /// What was asked for.
        given: usize,
    },
    /// The limit is one continuation.
    #[error("`best_of` != 1 is not allowed for this endpoint")]
    BestOfDisabled,
    /// Greedy continuations would all be the same.
    #[error("you must use sampling when `best_of` is > 1")]
    BestOfSampling,
    /// One seed would make all continuations the same.
    #[error("`seed` must not be set when `best_of` > 1")]
    BestOfSeed,
    /// Which continuation is best is known at the end only.
    #[error("`best_of` != 1 is not supported when streaming tokens")]
    BestOfStream,
    /// Streams have no place for the prompt's tokens.
    #[error("`decoder_input_details` == true is not supported when streaming tokens")]
    PrefillDetailsStream,
    /// More of the most probable tokens than the limit.
    #[error("`top_n_tokens` must be >= 0 and <= {max}. Given: {given}")]
    TopNTokens {
        /// The limit.
        max: u32,
        /// What was asked for.
        given: u32,
    },
    /// A sampling parameter is out of its range.
    #[error(transparent)]
    Sampling(#[from] ParamError),
    /// Zero, or more than a prompt may have.
    #[error("`truncate` must be strictly positive and less than {max}. Given: {given}")]
    Truncate {
        /// The limit, which is allowed although the message says "less than".
        max: usize,
        /// What was asked for.
        given: usize,
    },
    /// Zero.
    #[error("`max_new_tokens` must be strictly positive")]
    MaxNewTokens,
    /// Prompt and continuation are too long together.
    #[error(
        "`inputs` tokens + `max_new_tokens` must be <= {max}. Given: {input_length} `inputs` tokens and \
         {max_new_tokens} `max_new_tokens`"
    )]
    MaxTotalTokens {
        /// The limit.
        max: usize,
        /// Tokens of the prompt.
        input_length: usize,
        /// Tokens to be generated.
        max_new_tokens: u32,
    },
    /// The prompt is too long.
    #[error("`inputs` must have less than {max} tokens. Given: {input_length}")]
    InputLength {
        /// The limit, which is allowed although the message says "less than".
        max: usize,
        /// Tokens of the prompt.
        input_length: usize,
    },
    /// The prompt has no token.
    #[error("`inputs` cannot be empty")]
    EmptyInput,
    /// More stop strings than the limit.
    #[error("`stop` supports up to {max} stop sequences. Given: {given}")]
    StopSequence {
        /// The limit.
        max: usize,
        /// How many there are.
        given: usize,
    },
    /// The tokenizer cannot read the prompt.
    #[error("tokenizer error {0}")]
    Tokenizer(String),
    /// The prompt is given twice.
    #[error("`inputs` and `input_ids` must not both be set")]
    BothInputs,
    /// A token that the model does not know.
    #[error("`input_ids` must be < {vocab_size}. Given: {id} at index {index}")]
    TokenId {
        /// Tokens of the vocabulary.
        vocab_size: usize,
        /// The token.
        id: u32,
        /// Its index in the prompt.
        index: usize,
    },
    /// There is a grammar.
    #[error("`grammar` is not supported yet")]
    Grammar,
}

impl ValidationError {
    /// The field of the request that is at fault, as requests spell it.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::BestOf { .. } | Self::BestOfDisabled | Self::BestOfSampling | Self::BestOfStream => "best_of",
            Self::BestOfSeed => "seed",
            Self::PrefillDetailsStream => "decoder_input_details",
            Self::TopNTokens { .. } => "top_n_tokens",
            Self::Sampling(error) => error.field(),
            Self::Truncate { .. } => "truncate",
            Self::MaxNewTokens => "max_new_tokens",
            Self::MaxTotalTokens { .. } | Self::InputLength { .. } | Self::EmptyInput | Self::Tokenizer(_) => "inputs",
            Self::StopSequence { .. } => "stop",
            Self::BothInputs | Self::TokenId { .. } => "input_ids",
            Self::Grammar => "grammar",
        }
    }

    /// The message as it stands in an answer.
    #[must_use]
    pub fn full_message(&self) -> String {
        format!("Input validation error: {self}")
    }
}

/// A request that can be run. Only [`validate`] makes one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ValidRequest {
    /// The prompt's tokens, after truncation: at least one, all within the vocabulary.
    pub prompt: Vec<u32>,
    /// The prompt as it was given, before truncation; `None` if it was given as token ids.
    pub text: Option<String>,
    /// The most tokens to generate; at least 1, and together with the prompt within the limit.
    pub max_new_tokens: u32,
    /// How many continuations are made, of which the likeliest is the answer; at least 1.
    pub best_of: u32,
    /// Texts that end the generation.
    pub stop: Vec<String>,
    /// Put the prompt before the generated text.
    pub return_full_text: bool,
    /// Answer with details; `decoder_input_details` implies it.
    pub details: bool,
    /// Answer with the log-probabilities of the prompt's tokens.
    pub decoder_input_details: bool,
    /// Answer with so many of the most probable tokens beside each.
    pub top_n_tokens: u32,
    /// Go on after the end-of-text token.
    pub ignore_eos: bool,
    /// Who goes first when requests wait.
    pub priority: Priority,
    sampling: SamplingParams,
}

impl ValidRequest {
    /// How the tokens of continuation `index` are chosen.
    #[must_use]
    pub fn sampling(&self, index: u32) -> SamplingParams {
        let mut settings = *self.sampling.settings();
        if let Choice::Draw { index: choice, .. } = &mut settings.choice {
            *choice = index;
        }
        SamplingParams::try_new(settings).expect("the choice has no limits, and the rest has been checked")
    }

    /// The seed of continuation `index`; `None` if its choices are greedy. A request with this seed draws the same: the
    /// generator is keyed by seed + index.
    #[must_use]
    pub fn seed(&self, index: u32) -> Option<u64> {
        match self.sampling.settings().choice {
            Choice::Greedy => None,
            Choice::Draw { seed, .. } => Some(seed.wrapping_add(u64::from(index))),
        }
    }
}

/// Checks `request` in TGI's order, so that the first error is the same, and tokenizes its prompt.
///
/// `stream`: the answer is wanted token by token. `fresh_seed`: for draws without a seed; a random number.
/// `encode`: the tokens of a text, or why it has none.
///
/// # Errors
///
/// The first rule that the request breaks.
pub fn validate(
    request: GenerateRequest,
    stream: bool,
    limits: &Limits,
    fresh_seed: u64,
    encode: impl FnOnce(&str) -> Result<Vec<u32>, String>,
) -> Result<ValidRequest, ValidationError> {
    let GenerateRequest { inputs, parameters, stream: _, priority } = request;
    let best_of = check_best_of(&parameters, stream, limits)?;
    let sampling = sampling_params(&parameters, fresh_seed)?;
    let max_new_tokens = parameters.max_new_tokens.unwrap_or(DEFAULT_MAX_NEW_TOKENS);
    let top_n_tokens = parameters.top_n_tokens.unwrap_or(0);
    check_options(&parameters, max_new_tokens, top_n_tokens, best_of, limits)?;
    let (prompt, text) = read_prompt(inputs, parameters.truncate, limits, encode)?;
    let input_length = prompt.len();
    if input_length.saturating_add(max_new_tokens as usize) > limits.max_total_tokens {
        return Err(ValidationError::MaxTotalTokens { max: limits.max_total_tokens, input_length, max_new_tokens });
    }
    if input_length > limits.max_input_length {
        return Err(ValidationError::InputLength { max: limits.max_input_length, input_length });
    }
    Ok(ValidRequest {
        prompt,
        text,
        max_new_tokens,
        best_of: best_of as u32,
        stop: parameters.stop,
        return_full_text: parameters.return_full_text.unwrap_or(false),
        details: parameters.details || parameters.decoder_input_details,
        decoder_input_details: parameters.decoder_input_details,
        top_n_tokens,
        ignore_eos: parameters.ignore_eos,
        priority,
        sampling,
    })
}

/// The number of continuations. TGI takes 0 for 1, except in streams.
fn check_best_of(parameters: &Parameters, stream: bool, limits: &Limits) -> Result<usize, ValidationError> {
    let best_of = parameters.best_of.unwrap_or(1);
    if stream && best_of != 1 {
        return Err(ValidationError::BestOfStream);
    }
    if stream && parameters.decoder_input_details {
        return Err(ValidationError::PrefillDetailsStream);
    }
    if best_of <= 1 {
        return Ok(1);
    }
    if limits.max_best_of == 1 {
        return Err(ValidationError::BestOfDisabled);
    }
    if best_of > limits.max_best_of {
        return Err(ValidationError::BestOf { max: limits.max_best_of, given: best_of });
    }
    // Any of these counts as sampling here, even a temperature of 1, with which tokens are not drawn.
    let given = [parameters.temperature, parameters.top_p, parameters.typical_p].iter().any(Option::is_some);
    if !(parameters.do_sample || given || parameters.top_k.is_some()) {
        return Err(ValidationError::BestOfSampling);
    }
    Ok(best_of)
}

fn sampling_params(parameters: &Parameters, fresh_seed: u64) -> Result<SamplingParams, ParamError> {
    let temperature = parameters.temperature.unwrap_or(1.0);
    let filters = parameters.top_k.is_some() || parameters.top_p.is_some() || parameters.typical_p.is_some();
    let choice = if parameters.do_sample || temperature != 1.0 || filters {
        Choice::Draw { seed: parameters.seed.unwrap_or(fresh_seed), index: 0 }
    } else {
        Choice::Greedy
    };
    SamplingParams::try_new(SamplingSettings {
        choice,
        temperature,
        // A negative number is as wrong as 0, and has the same message.
        top_k: parameters.top_k.map(|k| u32::try_from(k).unwrap_or(0)),
        top_p: parameters.top_p,
        typical_p: parameters.typical_p,
        repetition_penalty: parameters.repetition_penalty.unwrap_or(1.0),
        frequency_penalty: parameters.frequency_penalty.unwrap_or(0.0),
        watermark: parameters.watermark,
    })
}

fn check_options(
    parameters: &Parameters,
    max_new_tokens: u32,
    top_n_tokens: u32,
    best_of: usize,
    limits: &Limits,
) -> Result<(), ValidationError> {
    if max_new_tokens == 0 {
        return Err(ValidationError::MaxNewTokens);
    }
    let stops = parameters.stop.len();
    if stops > limits.max_stop_sequences {
        return Err(ValidationError::StopSequence { max: limits.max_stop_sequences, given: stops });
    }
    if best_of > 1 && parameters.seed.is_some() {
        return Err(ValidationError::BestOfSeed);
    }
    if top_n_tokens > limits.max_top_n_tokens {
        return Err(ValidationError::TopNTokens { max: limits.max_top_n_tokens, given: top_n_tokens });
    }
    if parameters.grammar.is_some() {
        return Err(ValidationError::Grammar);
    }
    Ok(())
}

/// The prompt's tokens, cut at the left, and its whole text.
fn read_prompt(
    inputs: Inputs,
    truncate: Option<usize>,
    limits: &Limits,
    encode: impl FnOnce(&str) -> Result<Vec<u32>, String>,
) -> Result<(Vec<u32>, Option<String>), ValidationError> {
    let is_empty = match &inputs {
        Inputs::Text(text) => text.is_empty(),
        Inputs::Ids(ids) => ids.is_empty(),
    };
    if is_empty {
        return Err(ValidationError::EmptyInput);
    }
    if let Some(given) = truncate.filter(|&given| given == 0 || given > limits.max_input_length) {
        return Err(ValidationError::Truncate { max: limits.max_input_length, given });
    }
    let (mut tokens, text) = match inputs {
        Inputs::Text(text) => (encode(&text).map_err(ValidationError::Tokenizer)?, Some(text)),
        Inputs::Ids(ids) => (ids, None),
    };
    if let Some(index) = tokens.iter().position(|&id| id as usize >= limits.vocab_size) {
        return Err(ValidationError::TokenId { vocab_size: limits.vocab_size, id: tokens[index], index });
    }
    // A text may have no token: Falcon's vocabulary lacks some bytes.
    if tokens.is_empty() {
        return Err(ValidationError::EmptyInput);
    }
    let surplus = truncate.map_or(0, |keep| tokens.len().saturating_sub(keep));
    tokens.drain(..surplus);
    Ok((tokens, text))
}
