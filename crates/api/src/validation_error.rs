//! Why a request is rejected.

use step::ParamError;

/// Why a request is rejected. The messages are TGI's, where TGI has the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum ValidationError {
    /// More continuations than the limit.
    #[error("`best_of` must be > 0 and <= {max}. Given: {given}")]
    BestOf { max: usize, given: usize },
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
    TopNTokens { max: u32, given: u32 },
    /// A sampling parameter is out of its range.
    #[error(transparent)]
    Sampling(#[from] ParamError),
    /// Zero, or more than a prompt may have.
    #[error("`truncate` must be strictly positive and less than {max}. Given: {given}")]
    Truncate {
        /// The limit, which is allowed although the message says "less than".
        max: usize,
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
    MaxTotalTokens { max: usize, input_length: usize, max_new_tokens: u32 },
    /// The prompt is too long.
    #[error("`inputs` must have less than {max} tokens. Given: {input_length}")]
    InputLength {
        /// The limit, which is allowed although the message says "less than".
        max: usize,
        input_length: usize,
    },
    /// The prompt's text has more bytes than the longest prompt can have.
    #[error("`inputs` must have at most {max} bytes, as many as {tokens} tokens can have. Given: {given} bytes")]
    InputBytes {
        /// The limit in bytes.
        max: usize,
        tokens: usize,
        given: usize,
    },
    /// The prompt has no token.
    #[error("`inputs` cannot be empty")]
    EmptyInput,
    /// More stop strings than the limit.
    #[error("`stop` supports up to {max} stop sequences. Given: {given}")]
    StopSequence { max: usize, given: usize },
    /// A stop string longer than the limit. Text Generation Inference has none; here each is held, with what looking for it takes,
    /// as long as its request runs.
    #[error("`stop` sequences must have at most {max} bytes. Given: {given}")]
    StopLength {
        max: usize,
        /// The bytes of the first that is too long.
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
        vocab_size: usize,
        id: u32,
        /// Its index in the prompt.
        index: usize,
    },
    /// A token of the text that the tokenizer has and the model has not.
    #[error("`inputs` has the token `{token}` ({id}), but the model's vocabulary has {vocab_size} tokens")]
    UnknownToken { token: String, id: u32, vocab_size: usize },
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
            Self::MaxTotalTokens { .. }
            | Self::InputLength { .. }
            | Self::InputBytes { .. }
            | Self::EmptyInput
            | Self::UnknownToken { .. }
            | Self::Tokenizer(_) => "inputs",
            Self::StopSequence { .. } | Self::StopLength { .. } => "stop",
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
