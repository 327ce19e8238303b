//! From a request as it comes to one that can be run.

use crate::limits::{STOP_BYTES_MAX, STOP_TOKEN_IDS_MAX};
use crate::{Field, Limits, Priority, Prompt, Request, Sampling, Violation};
use step::{Choice, SamplingParams, SamplingSettings};

/// A request that keeps all limits but those of the prompt's tokens, which are not known yet. Only [`check`] makes one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CheckedRequest {
    /// The prompt, not empty. Only its end counts if there is a `truncate`.
    pub prompt: Prompt,
    /// As in [`Request`].
    pub add_special_tokens: bool,
    /// Keep so many tokens from the end of the prompt; within the limits.
    pub truncate: Option<usize>,
    max_tokens: Option<u32>,
    /// All else; its prompt is empty.
    request: ValidRequest,
}

/// A request that can be run. Only [`CheckedRequest::encode`] makes one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ValidRequest {
    /// The prompt's tokens, after truncation: at least one, all within the vocabulary.
    pub prompt: Vec<u32>,
    /// The most tokens to generate; at least 1, and together with the prompt within the limit.
    pub max_tokens: u32,
    /// How many continuations are the answer; at least 1.
    pub n: usize,
    /// How many are made; at least `n`.
    pub best_of: usize,
    /// Texts that end a continuation.
    pub stop: Vec<String>,
    /// The answer has the text that ended it.
    pub keep_stop: bool,
    /// Answer with the log-probabilities of the prompt's tokens.
    pub prompt_logprobs: bool,
    /// Answer with so many of the most probable tokens beside each.
    pub top_tokens: u32,
    /// Go on after the end-of-text token.
    pub ignore_eos: bool,
    /// Tokens that end a continuation.
    pub stop_token_ids: Vec<u32>,
    /// No token ends a continuation before it has so many; at most `max_tokens`.
    pub min_tokens: u32,
    /// Who goes first when requests wait.
    pub priority: Priority,
    sampling: SamplingParams,
}

impl ValidRequest {
    /// How the tokens of continuation `index` are chosen.
    #[must_use]
    pub fn sampling(&self, index: usize) -> SamplingParams {
        let mut settings = self.sampling.settings().clone();
        if let Choice::Draw { index: choice, .. } = &mut settings.choice {
            *choice = index as u32;
        }
        SamplingParams::try_new(settings).expect("the choice has no limits, and the rest has been checked")
    }

    /// The seed of continuation `index`; `None` if its choices are greedy. A request with this seed draws the same: the
    /// generator is keyed by seed + index.
    #[must_use]
    pub fn seed(&self, index: usize) -> Option<u64> {
        match self.sampling.settings().choice {
            Choice::Greedy => None,
            Choice::Draw { seed, .. } => Some(seed.wrapping_add(index as u64)),
        }
    }
}

/// Checks all of `request` but the prompt's tokens.
///
/// `fresh_seed`: for draws without a seed; a random number.
///
/// # Errors
///
/// The first rule that the request breaks.
pub fn check(request: Request, limits: &Limits, fresh_seed: u64) -> Result<CheckedRequest, Violation> {
    let best_of = check_best_of(&request, limits)?;
    let sampling = sampling_params(&request.sampling, fresh_seed)?;
    check_options(&request, limits)?;
    check_prompt(&request.prompt, request.truncate, limits)?;
    let valid = ValidRequest {
        prompt: Vec::new(),
        max_tokens: 0,
        n: request.n,
        best_of,
        stop: request.stop.strings,
        keep_stop: request.stop.keep_string,
        prompt_logprobs: request.prompt_logprobs,
        top_tokens: request.top_tokens,
        ignore_eos: request.stop.ignore_eos,
        stop_token_ids: request.stop.token_ids,
        min_tokens: request.stop.min_tokens,
        priority: request.priority,
        sampling,
    };
    let Request { prompt, add_special_tokens, truncate, max_tokens, .. } = request;
    Ok(CheckedRequest { prompt, add_special_tokens, truncate, max_tokens, request: valid })
}

impl CheckedRequest {
    /// Tokens that the prompt may have, beside those that are to be generated.
    #[must_use]
    pub fn prompt_tokens_max(&self, limits: &Limits) -> usize {
        let new = self.max_tokens.map_or(1, |new| new as usize);
        limits.max_total_tokens.saturating_sub(new).min(limits.max_input_length)
    }

    /// Tokenizes the prompt, if it is no list of ids, and holds its tokens against the limits.
    ///
    /// `encode`: the tokens of a prompt, all within the vocabulary; of more than its second argument, if that is given, only
    /// so many, from the end.
    ///
    /// # Errors
    ///
    /// Those of `encode`, or the first rule that the tokens break.
    pub fn encode(
        self,
        limits: &Limits,
        encode: impl FnOnce(Prompt, Option<usize>) -> Result<Vec<u32>, Violation>,
    ) -> Result<ValidRequest, Violation> {
        let Self { prompt, truncate, max_tokens, mut request, .. } = self;
        request.prompt = match prompt {
            Prompt::Ids(ids) => last_ids(ids, truncate, limits)?,
            other => encode(other, truncate)?,
        };
        let prompt = request.prompt.len();
        // A text may have no token: Falcon's vocabulary lacks some bytes.
        if prompt == 0 {
            return Err(Violation::EmptyPrompt);
        }
        let room = limits.max_total_tokens.saturating_sub(prompt);
        // One token is the least that can be generated.
        let new = max_tokens.unwrap_or(u32::try_from(room).unwrap_or(u32::MAX).max(1));
        if new as usize > room {
            return Err(Violation::TotalTokens { max: limits.max_total_tokens, prompt, new });
        }
        if prompt > limits.max_input_length {
            return Err(Violation::PromptTokens { max: limits.max_input_length, given: prompt });
        }
        if request.min_tokens > new {
            let (max, given) = (new as usize, request.min_tokens as usize);
            return Err(Violation::TooMany { field: Field::MinTokens, max, given });
        }
        request.max_tokens = new;
        Ok(request)
    }
}

/// The number of continuations that are made.
fn check_best_of(request: &Request, limits: &Limits) -> Result<usize, Violation> {
    let (n, max) = (request.n, limits.max_continuations);
    if n == 0 {
        return Err(Violation::TooFew { field: Field::N, min: 1, given: 0 });
    }
    let best_of = request.best_of.unwrap_or(n);
    if best_of < n {
        return Err(Violation::TooFew { field: Field::BestOf, min: n, given: best_of });
    }
    let field = if best_of > n { Field::BestOf } else { Field::N };
    if best_of > max {
        return Err(Violation::TooMany { field, max, given: best_of });
    }
    Ok(best_of)
}

fn sampling_params(sampling: &Sampling, fresh_seed: u64) -> Result<SamplingParams, Violation> {
    let choice = match sampling.draw {
        true => Choice::Draw { seed: sampling.seed.unwrap_or(fresh_seed), index: 0 },
        false => Choice::Greedy,
    };
    Ok(SamplingParams::try_new(SamplingSettings {
        choice,
        temperature: sampling.temperature.unwrap_or(1.0),
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        typical_p: sampling.typical_p,
        min_p: sampling.min_p.unwrap_or(0.0),
        repetition_penalty: sampling.repetition_penalty.unwrap_or(1.0),
        relative_frequency_penalty: sampling.relative_frequency_penalty.unwrap_or(0.0),
        presence_penalty: sampling.presence_penalty.unwrap_or(0.0),
        frequency_penalty: sampling.frequency_penalty.unwrap_or(0.0),
        logit_bias: Some(sampling.logit_bias.as_slice().into()),
        watermark: sampling.watermark,
    })?)
}

fn check_options(request: &Request, limits: &Limits) -> Result<(), Violation> {
    if request.max_tokens == Some(0) {
        return Err(Violation::TooFew { field: Field::MaxTokens, min: 1, given: 0 });
    }
    let (stops, max) = (&request.stop.strings, limits.max_stop_strings);
    if stops.len() > max {
        return Err(Violation::TooMany { field: Field::Stop, max, given: stops.len() });
    }
    if let Some(stop) = stops.iter().find(|stop| stop.len() > STOP_BYTES_MAX) {
        return Err(Violation::StopBytes { max: STOP_BYTES_MAX, given: stop.len() });
    }
    let (given, max) = (request.stop.token_ids.len(), STOP_TOKEN_IDS_MAX);
    if given > max {
        return Err(Violation::TooMany { field: Field::StopTokenIds, max, given });
    }
    let vocab_size = limits.vocab_size;
    if let Some(by) = request.sampling.logit_bias.iter().find(|by| by.id as usize >= vocab_size) {
        return Err(Violation::UnknownId { field: Field::LogitBias, id: by.id, vocab_size });
    }
    if request.top_tokens > limits.max_top_tokens {
        let (max, given) = (limits.max_top_tokens as usize, request.top_tokens as usize);
        return Err(Violation::TooMany { field: Field::TopTokens, max, given });
    }
    if request.grammar.is_some() {
        return Err(Violation::Unsupported { field: Field::Grammar });
    }
    Ok(())
}

fn check_prompt(prompt: &Prompt, truncate: Option<usize>, limits: &Limits) -> Result<(), Violation> {
    let is_empty = match prompt {
        Prompt::Text(text) => text.is_empty(),
        Prompt::Ids(ids) => ids.is_empty(),
        Prompt::Conversation(_) => false,
    };
    if is_empty {
        return Err(Violation::EmptyPrompt);
    }
    match (truncate, prompt) {
        (Some(given), _) if given == 0 || given > limits.max_input_length => {
            Err(Violation::TruncateLength { max: limits.max_input_length, given })
        }
        (None, Prompt::Text(text)) => limits.check_bytes(text),
        _ => Ok(()),
    }
}

/// The last `truncate` of a prompt's ids, if that is given. Ids that are cut off must be in the vocabulary, too.
fn last_ids(mut ids: Vec<u32>, truncate: Option<usize>, limits: &Limits) -> Result<Vec<u32>, Violation> {
    if let Some(index) = ids.iter().position(|&id| id as usize >= limits.vocab_size) {
        return Err(Violation::TokenId { vocab_size: limits.vocab_size, id: ids[index], index });
    }
    let surplus = truncate.map_or(0, |keep| ids.len().saturating_sub(keep));
    ids.drain(..surplus);
    Ok(ids)
}
