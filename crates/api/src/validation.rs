//! From a request as it comes to one that can be run.

use step::{Choice, ParamError, SamplingParams, SamplingSettings};

use crate::{GenerateRequest, Inputs, Parameters, Priority, ValidationError};

const DEFAULT_MAX_NEW_TOKENS: u32 = 20;

/// Bytes of one stop string.
const STOP_BYTES_MAX: usize = 4096;

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
    /// Bytes of its longest token.
    pub token_bytes_max: usize,
}

impl Limits {
    /// The limits that a model of `max_positions` positions and `vocab_size` tokens of up to `token_bytes_max` bytes sets, and
    /// TGI's others.
    #[must_use]
    pub fn of_model(max_positions: usize, vocab_size: usize, token_bytes_max: usize) -> Self {
        Self {
            max_input_length: max_positions - 1,
            max_total_tokens: max_positions,
            max_best_of: 2,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            vocab_size,
            token_bytes_max,
        }
    }

    /// Bytes of a text: as many as the longest prompt can have. A longer one is not tokenized, so that its length costs no
    /// memory.
    #[must_use]
    pub fn max_input_bytes(&self) -> usize {
        self.max_input_length.saturating_mul(self.token_bytes_max)
    }

    /// Holds a text against [`Limits::max_input_bytes`].
    ///
    /// # Errors
    ///
    /// [`ValidationError::InputBytes`].
    pub fn check_bytes(&self, text: &str) -> Result<(), ValidationError> {
        let (max, given) = (self.max_input_bytes(), text.len());
        if given > max {
            return Err(ValidationError::InputBytes { max, tokens: self.max_input_length, given });
        }
        Ok(())
    }
}

/// A request that keeps all limits but those of the prompt's tokens, which are not known yet. Only [`check`] makes one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CheckedRequest {
    /// The prompt, not empty. Only its end counts if there is a `truncate`.
    pub prompt: Inputs,
    /// Keep so many tokens from the end of the prompt; within the limits.
    pub truncate: Option<usize>,
    /// All else; its prompt is empty.
    request: ValidRequest,
}

/// A request that can be run. Only [`CheckedRequest::encode`] makes one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ValidRequest {
    /// The prompt's tokens, after truncation: at least one, all within the vocabulary.
    pub prompt: Vec<u32>,
    /// The prompt as it was given, before truncation, if it is to be put before the generated text; `None` also if it was given
    /// as token ids.
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

/// Checks `request` in TGI's order, so that the first error is the same; its tokens come last.
///
/// `stream`: the answer is wanted token by token. `fresh_seed`: for draws without a seed; a random number.
///
/// # Errors
///
/// The first rule that the request breaks.
pub fn check(
    request: GenerateRequest,
    stream: bool,
    limits: &Limits,
    fresh_seed: u64,
) -> Result<CheckedRequest, ValidationError> {
    let GenerateRequest { inputs, parameters, stream: _, priority } = request;
    let best_of = check_best_of(&parameters, stream, limits)?;
    let sampling = sampling_params(&parameters, fresh_seed)?;
    let max_new_tokens = parameters.max_new_tokens.unwrap_or(DEFAULT_MAX_NEW_TOKENS);
    let top_n_tokens = parameters.top_n_tokens.unwrap_or(0);
    check_options(&parameters, max_new_tokens, top_n_tokens, best_of, limits)?;
    check_prompt(&inputs, parameters.truncate, limits)?;
    let return_full_text = parameters.return_full_text.unwrap_or(false);
    let text = match &inputs {
        Inputs::Text(text) if return_full_text => Some(text.clone()),
        _ => None,
    };
    let request = ValidRequest {
        prompt: Vec::new(),
        text,
        max_new_tokens,
        best_of: best_of as u32,
        stop: parameters.stop,
        return_full_text,
        details: parameters.details || parameters.decoder_input_details,
        decoder_input_details: parameters.decoder_input_details,
        top_n_tokens,
        ignore_eos: parameters.ignore_eos,
        priority,
        sampling,
    };
    Ok(CheckedRequest { prompt: inputs, truncate: parameters.truncate, request })
}

impl CheckedRequest {
    /// Tokenizes the prompt, if it is a text, and holds its tokens against the limits.
    ///
    /// `encode`: the tokens of a text, all within the vocabulary; of more than its second argument, if that is given, only
    /// so many, from the end.
    ///
    /// # Errors
    ///
    /// Those of `encode`, or the first rule that the tokens break.
    pub fn encode(
        self,
        limits: &Limits,
        encode: impl FnOnce(&str, Option<usize>) -> Result<Vec<u32>, ValidationError>,
    ) -> Result<ValidRequest, ValidationError> {
        let Self { prompt, truncate, mut request } = self;
        request.prompt = match prompt {
            Inputs::Text(text) => encode(&text, truncate)?,
            Inputs::Ids(ids) => last_ids(ids, truncate, limits)?,
        };
        let (input_length, max_new_tokens) = (request.prompt.len(), request.max_new_tokens);
        // A text may have no token: Falcon's vocabulary lacks some bytes.
        if input_length == 0 {
            return Err(ValidationError::EmptyInput);
        }
        if input_length.saturating_add(max_new_tokens as usize) > limits.max_total_tokens {
            return Err(ValidationError::MaxTotalTokens { max: limits.max_total_tokens, input_length, max_new_tokens });
        }
        if input_length > limits.max_input_length {
            return Err(ValidationError::InputLength { max: limits.max_input_length, input_length });
        }
        Ok(request)
    }
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
    if let Some(stop) = parameters.stop.iter().find(|stop| stop.len() > STOP_BYTES_MAX) {
        return Err(ValidationError::StopLength { max: STOP_BYTES_MAX, given: stop.len() });
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

fn check_prompt(inputs: &Inputs, truncate: Option<usize>, limits: &Limits) -> Result<(), ValidationError> {
    let is_empty = match inputs {
        Inputs::Text(text) => text.is_empty(),
        Inputs::Ids(ids) => ids.is_empty(),
    };
    if is_empty {
        return Err(ValidationError::EmptyInput);
    }
    match (truncate, inputs) {
        (Some(given), _) if given == 0 || given > limits.max_input_length => {
            Err(ValidationError::Truncate { max: limits.max_input_length, given })
        }
        (None, Inputs::Text(text)) => limits.check_bytes(text),
        _ => Ok(()),
    }
}

/// The last `truncate` of a prompt's ids, if that is given. Ids that are cut off must be in the vocabulary, too.
fn last_ids(mut ids: Vec<u32>, truncate: Option<usize>, limits: &Limits) -> Result<Vec<u32>, ValidationError> {
    if let Some(index) = ids.iter().position(|&id| id as usize >= limits.vocab_size) {
        return Err(ValidationError::TokenId { vocab_size: limits.vocab_size, id: ids[index], index });
    }
    let surplus = truncate.map_or(0, |keep| ids.len().saturating_sub(keep));
    ids.drain(..surplus);
    Ok(ids)
}
