//! What came in answer to a request.

use std::sync::Arc;
use std::time::Instant;

/// One message with tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Seconds after the request was sent.
    pub at: f32,
    /// How many tokens it brought.
    pub tokens: u32,
}

/// What came in answer to a request.
pub struct Record {
    start: Instant,
    observer: Option<Arc<dyn Observer>>,
    /// Every message with tokens.
    pub arrivals: Vec<Arrival>,
    /// The tokens, where the dialect tells their ids.
    pub ids: Vec<u32>,
    /// What the server counted itself.
    pub counts: Counts,
}

/// Sees messages with tokens when they come.
pub(crate) trait Observer: Send + Sync {
    /// A message with this many tokens has come.
    fn message(&self, tokens: u32, first: Seen<'_>);
}

/// A token of a message, as far as the dialect tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// Its id.
    Id(u32),
    /// The text of the message.
    Text(&'a str),
}

/// What a server counts itself, as far as it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the prompt.
    pub input_tokens: Option<u32>,
    /// Tokens of the prompt that were not computed anew.
    pub cached_tokens: Option<u32>,
    /// Tokens of the answer.
    pub output_tokens: Option<u32>,
}

impl Record {
    pub(crate) fn new(observer: Option<Arc<dyn Observer>>) -> Self {
        Self { start: Instant::now(), observer, arrivals: Vec::new(), ids: Vec::new(), counts: Counts::default() }
    }

    /// A message with this many tokens has come now.
    pub(super) fn arrived(&mut self, tokens: usize, first: Seen<'_>) {
        let tokens = u32::try_from(tokens).expect("a message is smaller than that");
        if let Some(observer) = &self.observer {
            observer.message(tokens, first);
        }
        self.arrivals.push(Arrival { at: self.start.elapsed().as_secs_f32(), tokens });
    }

    /// Tokens in all messages so far.
    pub(crate) fn came(&self) -> u32 {
        self.arrivals.iter().map(|arrival| arrival.tokens).sum()
    }

    /// Takes what the server counted; what it does not tell stays as it was.
    pub(super) fn note(&mut self, told: Counts) {
        let before = self.counts;
        self.counts = Counts {
            input_tokens: told.input_tokens.or(before.input_tokens),
            cached_tokens: told.cached_tokens.or(before.cached_tokens),
            output_tokens: told.output_tokens.or(before.output_tokens),
        };
    }

    /// Tokens of the answer: as the server counted them, else as they came.
    #[must_use]
    pub fn generated(&self) -> u32 {
        self.counts.output_tokens.unwrap_or_else(|| self.came())
    }
}
