//! The most that a request may ask for.

use crate::Violation;

/// Bytes of one stop string. Each is held, with what looking for it takes, as long as its request runs.
pub(crate) const STOP_BYTES_MAX: usize = 4096;

/// Tokens that end a continuation. Each generated token is looked for among them.
pub(crate) const STOP_TOKEN_IDS_MAX: usize = 128;

/// The most that a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a prompt, after truncation.
    pub max_input_length: usize,
    /// Tokens of a prompt together with those to be generated.
    pub max_total_tokens: usize,
    /// Continuations that are made of one prompt.
    pub max_continuations: usize,
    /// Stop strings.
    pub max_stop_strings: usize,
    /// Most probable tokens beside each token.
    pub max_top_tokens: u32,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Bytes of its longest token.
    pub token_bytes_max: usize,
}

impl Limits {
    /// The limits that a model of `max_positions` positions and `vocab_size` tokens of up to `token_bytes_max` bytes sets. The
    /// others are wide; a dialect may have narrower ones.
    #[must_use]
    pub fn of_model(max_positions: usize, vocab_size: usize, token_bytes_max: usize) -> Self {
        Self {
            max_input_length: max_positions - 1,
            max_total_tokens: max_positions,
            max_continuations: 128,
            max_stop_strings: 64,
            max_top_tokens: 20,
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
    /// [`Violation::PromptBytes`].
    pub fn check_bytes(&self, text: &str) -> Result<(), Violation> {
        let (max, given) = (self.max_input_bytes(), text.len());
        if given > max {
            return Err(Violation::PromptBytes { max, tokens: self.max_input_length, given });
        }
        Ok(())
    }
}
