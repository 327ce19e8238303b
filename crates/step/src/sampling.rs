//! How a sequence's next token is chosen.

/// Settings as a caller gives them; [`SamplingParams::try_new`] checks them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingSettings {
    /// Greedy, or a seeded draw.
    pub choice: Choice,
    /// Logits are divided by it; greater than 0.
    pub temperature: f32,
    /// Keep the `top_k` largest logits (ties of the smallest kept); greater than 0. `None`: keep all.
    pub top_k: Option<u32>,
    /// Keep the smallest set of most probable tokens whose mass reaches this; within (0, 1). `None`: keep all.
    pub top_p: Option<f32>,
    /// Keep the tokens whose information is nearest to the entropy, up to this mass; within (0, 1). `None`: keep all.
    pub typical_p: Option<f32>,
    /// Logits of tokens seen before are divided by it (multiplied where negative); greater than 0, 1 is off.
    pub repetition_penalty: f32,
    /// Logits lose this times the share that the token has of all tokens so far; any finite number, 0 is off.
    pub frequency_penalty: f32,
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
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        watermark: false,
    };
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams(SamplingSettings);

/// A sampling setting out of its range. The messages are the ones that clients of Text Generation Inference know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamError {
    /// Zero, negative or not a number.
    #[error("`temperature` must be strictly positive")]
    Temperature,
    /// Zero, negative or not a number.
    #[error("`repetition_penalty` must be strictly positive")]
    RepetitionPenalty,
    /// Infinite, or not a number.
    #[error("`frequency_penalty` must be a finite number")]
    FrequencyPenalty,
    /// Outside (0, 1), or not a number.
    #[error("`top_p` must be > 0.0 and < 1.0")]
    TopP,
    /// Outside (0, 1), or not a number.
    #[error("`typical_p` must be > 0.0 and < 1.0")]
    TypicalP,
    /// Zero.
    #[error("`top_k` must be strictly positive")]
    TopK,
}

impl ParamError {
    /// The name of the field that is out of range, as requests spell it.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::RepetitionPenalty => "repetition_penalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::TopP => "top_p",
            Self::TypicalP => "typical_p",
            Self::TopK => "top_k",
        }
    }
}

impl SamplingParams {
    /// Greedy decoding with every processor off.
    pub const GREEDY: Self = Self(SamplingSettings::GREEDY);

    /// Checks `settings` in the order in which Text Generation Inference does, so that the first error is the same.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range; see [`SamplingSettings`] for the ranges.
    pub fn try_new(settings: SamplingSettings) -> Result<Self, ParamError> {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let inside = |x: Option<f32>| x.is_none_or(|x| x > 0.0 && x < 1.0);
        let checks = [
            (positive(settings.temperature), ParamError::Temperature),
            (positive(settings.repetition_penalty), ParamError::RepetitionPenalty),
            (settings.frequency_penalty.is_finite(), ParamError::FrequencyPenalty),
            (inside(settings.top_p), ParamError::TopP),
            (inside(settings.typical_p), ParamError::TypicalP),
            (settings.top_k != Some(0), ParamError::TopK),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            Some((_, error)) => Err(error),
            None => Ok(Self(settings)),
        }
    }

    /// The settings, which are all within their limits.
    #[must_use]
    pub fn settings(&self) -> &SamplingSettings {
        &self.0
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
        assert_eq!(with(|s| s.frequency_penalty = f32::NAN), Err("frequency_penalty"));
        assert_eq!(with(|s| s.frequency_penalty = f32::INFINITY), Err("frequency_penalty"));
        assert_eq!(with(|s| s.top_p = Some(1.0)), Err("top_p"));
        assert_eq!(with(|s| s.typical_p = Some(f32::NAN)), Err("typical_p"));
        assert_eq!(with(|s| s.top_k = Some(0)), Err("top_k"));
        assert!(with(|s| s.top_p = Some(0.9)).is_ok());
    }
}
