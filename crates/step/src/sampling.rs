//! How a sequence's next token is chosen.

use std::sync::Arc;

/// The most tokens that [`SamplingSettings::logit_bias`] may name: backends reserve memory for them.
pub const LOGIT_BIAS_MAX: usize = 1024;
/// A logit gains at most this by [`SamplingSettings::logit_bias`], and loses at most as much (OpenAI's limit).
const BIAS_MAX: f32 = 100.0;
/// The largest magnitude of the penalties that OpenAI defines (its limit).
const PENALTY_MAX: f32 = 2.0;

/// Settings as a caller gives them; [`SamplingParams::try_new`] checks them.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingSettings {
    /// Greedy, or a seeded draw.
    pub choice: Choice,
    /// Logits are divided by it; greater than 0.
    pub temperature: f32,
    /// Keep the `top_k` largest logits (ties of the smallest kept); greater than 0. `None`: keep all.
    pub top_k: Option<u32>,
    /// Keep the smallest set of most probable tokens whose mass reaches this; within (0, 1]. `None` and 1: keep all.
    pub top_p: Option<f32>,
    /// Keep the tokens whose information is nearest to the entropy, up to this mass; within (0, 1]. `None` and 1: keep all.
    pub typical_p: Option<f32>,
    /// Keep the tokens that are at least this times as probable as the most probable one; within [0, 1], 0 is off ("Min-p
    /// Sampling for Creative and Coherent LLM Outputs", ICLR 2025).
    pub min_p: f32,
    /// Logits of tokens seen before, in the prompt or behind it, are divided by it (multiplied where negative); greater than 0,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Logits lose this times the share that the token has of all tokens so far, the prompt's among them; any finite number,
    /// 0 is off. It is the `frequency_penalty` of Text Generation Inference.
    pub relative_frequency_penalty: f32,
    /// Logits of tokens that have been generated lose this; within [-2, 2], 0 is off. OpenAI's, over generated tokens alone,
    /// as in vLLM.
    pub presence_penalty: f32,
    /// Logits lose this for each time that the token has been generated; within [-2, 2], 0 is off. OpenAI's, over generated
    /// tokens alone, as in vLLM.
    pub frequency_penalty: f32,
    /// What is added to the logits of some tokens before all else (OpenAI's); up to [`LOGIT_BIAS_MAX`] tokens, none twice. Ids
    /// outside of the vocabulary change nothing. `None`: none.
    pub logit_bias: Option<Arc<[TokenBias]>>,
    /// Favour the half of the vocabulary that the previous token selects.
    pub watermark: bool,
}

impl SamplingSettings {
    /// Greedy decoding with every processor off.
    pub const GREEDY: Self = Self {
        choice: Choice::Greedy,
        temperature: 1.0,
        top_k: None,
        top_p: None,
        typical_p: None,
        min_p: 0.0,
        repetition_penalty: 1.0,
        relative_frequency_penalty: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: None,
        watermark: false,
    };
}

/// What is added to one token's logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenBias {
    /// Vocabulary id.
    pub id: u32,
    /// Within [-100, 100].
    pub bias: f32,
}

impl Default for SamplingSettings {
    fn default() -> Self {
        Self::GREEDY
    }
}

/// How a token is taken from the processed logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The largest logit; the smallest id among equals.
    Greedy,
    /// A draw from the softmax, by a counter-based generator: the same at any load, batch and tensor-parallel degree.
    Draw {
        /// The request's seed.
        seed: u64,
        /// Which of the request's sequences draws.
        index: u32,
    },
}

/// Settings within their limits. [`SamplingParams::try_new`] is the only way to have one, so nothing behind it checks
/// again.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams(SamplingSettings);

/// A sampling setting out of its range. Where Text Generation Inference has the rule, the message is the one that its clients
/// know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// Zero, negative or not a number.
    #[error("`temperature` must be strictly positive")]
    Temperature,
    /// Zero, negative or not a number.
    #[error("`repetition_penalty` must be strictly positive")]
    RepetitionPenalty,
    /// Infinite, or not a number.
    #[error("`relative_frequency_penalty` must be a finite number")]
    RelativeFrequencyPenalty,
    /// Outside [-2, 2], or not a number.
    #[error("`presence_penalty` must be >= -2.0 and <= 2.0")]
    PresencePenalty,
    /// Outside [-2, 2], or not a number.
    #[error("`frequency_penalty` must be >= -2.0 and <= 2.0")]
    FrequencyPenalty,
    /// Outside (0, 1], or not a number.
    #[error("`top_p` must be > 0.0 and <= 1.0")]
    TopP,
    /// Outside (0, 1], or not a number.
    #[error("`typical_p` must be > 0.0 and <= 1.0")]
    TypicalP,
    /// Outside [0, 1], or not a number.
    #[error("`min_p` must be >= 0.0 and <= 1.0")]
    MinP,
    /// Zero.
    #[error("`top_k` must be strictly positive")]
    TopK,
    /// More tokens than [`LOGIT_BIAS_MAX`].
    #[error("`logit_bias` must have at most {LOGIT_BIAS_MAX} tokens. Given: {given}")]
    LogitBiasTokens {
        /// How many there are.
        given: usize,
    },
    /// A bias outside [-100, 100], or not a number.
    #[error("`logit_bias` must be >= -100.0 and <= 100.0. Token {id} is not")]
    LogitBias {
        /// Whose bias.
        id: u32,
    },
    /// A token that has two biases.
    #[error("`logit_bias` must have each token once. Token {id} is there twice")]
    LogitBiasTwice {
        /// The token.
        id: u32,
    },
}

impl ParamError {
    /// The name of the field that is out of range, as [`SamplingSettings`] spells it.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::RepetitionPenalty => "repetition_penalty",
            Self::RelativeFrequencyPenalty => "relative_frequency_penalty",
            Self::PresencePenalty => "presence_penalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::TopP => "top_p",
            Self::TypicalP => "typical_p",
            Self::MinP => "min_p",
            Self::TopK => "top_k",
            Self::LogitBiasTokens { .. } | Self::LogitBias { .. } | Self::LogitBiasTwice { .. } => "logit_bias",
        }
    }
}

impl SamplingParams {
    /// Greedy decoding with every processor off.
    pub const GREEDY: Self = Self(SamplingSettings::GREEDY);

    /// Checks `settings` in the order in which Text Generation Inference does, so that the first error is the same; then what
    /// it does not have. What is off has one form here: a `top_p` or `typical_p` of 1, and a `logit_bias` of no tokens,
    /// become `None`.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range; see [`SamplingSettings`] for the ranges.
    pub fn try_new(mut settings: SamplingSettings) -> Result<Self, ParamError> {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let share = |x: Option<f32>| x.is_none_or(|x| x > 0.0 && x <= 1.0);
        let penalty = |x: f32| (-PENALTY_MAX..=PENALTY_MAX).contains(&x);
        let checks = [
            (positive(settings.temperature), ParamError::Temperature),
            (positive(settings.repetition_penalty), ParamError::RepetitionPenalty),
            (settings.relative_frequency_penalty.is_finite(), ParamError::RelativeFrequencyPenalty),
            (share(settings.top_p), ParamError::TopP),
            (share(settings.typical_p), ParamError::TypicalP),
            (settings.top_k != Some(0), ParamError::TopK),
            ((0.0..=1.0).contains(&settings.min_p), ParamError::MinP),
            (penalty(settings.presence_penalty), ParamError::PresencePenalty),
            (penalty(settings.frequency_penalty), ParamError::FrequencyPenalty),
        ];
        if let Some((_, error)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(error);
        }
        if let Some(biases) = &settings.logit_bias {
            check_biases(biases)?;
        }
        settings.top_p = settings.top_p.filter(|&mass| mass < 1.0);
        settings.typical_p = settings.typical_p.filter(|&mass| mass < 1.0);
        settings.logit_bias = settings.logit_bias.filter(|biases| !biases.is_empty());
        Ok(Self(settings))
    }

    /// The settings, which are all within their limits.
    #[must_use]
    pub fn settings(&self) -> &SamplingSettings {
        &self.0
    }
}

fn check_biases(biases: &[TokenBias]) -> Result<(), ParamError> {
    if biases.len() > LOGIT_BIAS_MAX {
        return Err(ParamError::LogitBiasTokens { given: biases.len() });
    }
    if let Some(&TokenBias { id, .. }) = biases.iter().find(|by| !(-BIAS_MAX..=BIAS_MAX).contains(&by.bias)) {
        return Err(ParamError::LogitBias { id });
    }
    let mut ids: Vec<u32> = biases.iter().map(|by| by.id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ParamError::LogitBiasTwice { id: pair[0] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_out_of_range_is_named() {
        let with = |change: fn(&mut SamplingSettings)| {
            let mut settings = SamplingSettings::default();
            change(&mut settings);
            SamplingParams::try_new(settings).map_err(ParamError::field)
        };
        assert_eq!(SamplingParams::try_new(SamplingSettings::default()), Ok(SamplingParams::GREEDY));
        assert_eq!(with(|s| s.temperature = 0.0), Err("temperature"));
        assert_eq!(with(|s| s.temperature = f32::NAN), Err("temperature"));
        assert_eq!(with(|s| s.temperature = f32::INFINITY), Err("temperature"));
        assert_eq!(with(|s| s.repetition_penalty = -1.0), Err("repetition_penalty"));
        assert_eq!(with(|s| s.relative_frequency_penalty = f32::NAN), Err("relative_frequency_penalty"));
        assert_eq!(with(|s| s.relative_frequency_penalty = f32::INFINITY), Err("relative_frequency_penalty"));
        assert_eq!(with(|s| s.presence_penalty = 2.1), Err("presence_penalty"));
        assert_eq!(with(|s| s.presence_penalty = f32::NAN), Err("presence_penalty"));
        assert_eq!(with(|s| s.frequency_penalty = -2.1), Err("frequency_penalty"));
        assert_eq!(with(|s| s.top_p = Some(1.1)), Err("top_p"));
        assert_eq!(with(|s| s.top_p = Some(0.0)), Err("top_p"));
        assert_eq!(with(|s| s.typical_p = Some(f32::NAN)), Err("typical_p"));
        assert_eq!(with(|s| s.min_p = -0.1), Err("min_p"));
        assert_eq!(with(|s| s.min_p = f32::NAN), Err("min_p"));
        assert_eq!(with(|s| s.top_k = Some(0)), Err("top_k"));
        assert!(with(|s| s.top_p = Some(0.9)).is_ok());
        assert!(with(|s| (s.min_p, s.presence_penalty, s.frequency_penalty) = (1.0, -2.0, 2.0)).is_ok());
    }

    fn with_biases(biases: impl IntoIterator<Item = (u32, f32)>) -> Result<SamplingParams, ParamError> {
        let biases: Arc<[TokenBias]> = biases.into_iter().map(|(id, bias)| TokenBias { id, bias }).collect();
        SamplingParams::try_new(SamplingSettings { logit_bias: Some(biases), ..SamplingSettings::default() })
    }

    #[test]
    fn biases_are_bounded_and_each_token_has_one() {
        assert!(with_biases((0..1024).map(|id| (id, 100.0))).is_ok());
        let many = with_biases((0..1025).map(|id| (id, 1.0))).expect_err("too many");
        assert_eq!(many.to_string(), "`logit_bias` must have at most 1024 tokens. Given: 1025");
        for bias in [100.5, -101.0, f32::NAN, f32::INFINITY] {
            assert_eq!(with_biases([(3, 1.0), (7, bias)]), Err(ParamError::LogitBias { id: 7 }));
        }
        assert_eq!(with_biases([(9, 1.0), (2, 1.0), (9, -1.0)]), Err(ParamError::LogitBiasTwice { id: 9 }));
    }

    #[test]
    fn what_is_off_has_one_form() {
        assert_eq!(with_biases([]), Ok(SamplingParams::GREEDY));
        let off = SamplingSettings { top_p: Some(1.0), typical_p: Some(1.0), ..SamplingSettings::default() };
        assert_eq!(SamplingParams::try_new(off), Ok(SamplingParams::GREEDY));
    }
}
