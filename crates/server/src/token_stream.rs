//! One sequence of a request that is under way, from its tokens to its text.

use crate::admission::Permit;
use crate::completion::count;
use crate::metrics::{Outcome, OutcomeGuard};
use crate::{Completion, Error};
use api::{FinishReason, PrefillToken, Token, ValidRequest};
use coordinator::{Generation, Update};
use std::sync::{Arc, Mutex, PoisonError};
use step::{Sample, ScoredToken};
use text::{OutputText, Tokenizer};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One sequence of a request that is under way. Dropping it ends the sequence.
pub struct TokenStream {
    generation: Generation,
    request: Arc<ValidRequest>,
    index: u32,
    tokenizer: Tokenizer,
    text: OutputText,
    prompt_logprobs: Vec<f32>,
    tokens: Vec<TokenEvent>,
    finish: Option<FinishReason>,
    cached_tokens: usize,
    /// Taken away at the deadline, if there is one.
    permit: Arc<Mutex<Option<Permit>>>,
    deadline: Option<AbortHandle>,
    /// Counts how the request ended; only the first sequence of a request has one.
    outcome_guard: Option<OutcomeGuard>,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// The token, with its text and log-probability.
    pub token: Token,
    /// The most probable tokens beside it, if they were asked for.
    pub top: Vec<Token>,
    /// The text that can be shown with it, for APIs that hold stop strings back.
    pub text: String,
    /// Why the sequence ends with it, if it does.
    pub finish: Option<FinishReason>,
}

impl TokenStream {
    pub(crate) fn new(
        generation: Generation,
        request: Arc<ValidRequest>,
        index: u32,
        tokenizer: Tokenizer,
        permit: Permit,
    ) -> Self {
        Self {
            generation,
            text: OutputText::new(tokenizer.clone(), &request.stop),
            request,
            index,
            tokenizer,
            prompt_logprobs: Vec::new(),
            tokens: Vec::new(),
            finish: None,
            cached_tokens: 0,
            permit: Arc::new(Mutex::new(Some(permit))),
            deadline: None,
            outcome_guard: None,
        }
    }

    /// Lets this sequence say how the whole request ended.
    pub(crate) fn count(&mut self, guard: OutcomeGuard) {
        self.outcome_guard = Some(guard);
    }

    /// Ends the sequence at that time and returns its permit, even if nobody asks for its tokens any more: a reader who has
    /// stopped reading holds nothing beyond its deadline but the tokens that it was sent.
    pub(crate) fn end_at(&mut self, deadline: Instant) {
        let (end, permit) = (self.generation.end(), self.permit.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(deadline).await;
            drop(end);
            permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        self.deadline = Some(task.abort_handle());
    }

    /// The next token; `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`] if the model fails, [`Error::Incomplete`] if the server ends.
    pub async fn next(&mut self) -> Result<Option<TokenEvent>, Error> {
        while self.finish.is_none() {
            let update = self.generation.next().await;
            if let Some(event) = self.take(update)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The next token, if it is there already.
    ///
    /// # Errors
    ///
    /// As [`TokenStream::next`].
    pub fn try_next(&mut self) -> Result<Option<TokenEvent>, Error> {
        while self.finish.is_none() {
            let Some(update) = self.generation.try_next() else { break };
            if let Some(event) = self.take(Some(update))? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Runs to the end.
    ///
    /// # Errors
    ///
    /// As [`TokenStream::next`].
    pub async fn finish(mut self) -> Result<Completion, Error> {
        while self.next().await?.is_some() {}
        self.into_completion().ok_or(Error::Incomplete)
    }

    /// The whole sequence, once it has ended.
    #[must_use]
    pub fn into_completion(mut self) -> Option<Completion> {
        let finish = self.finish?;
        // What was held back cannot become a stop string any more.
        let _ = self.text.finish();
        let prompt = if self.request.return_full_text { self.prompt_text() } else { String::new() };
        Some(Completion {
            generated_text: prompt + &self.text.with_stop(),
            prefill: if self.asks_for_prefill() { self.prefill() } else { Vec::new() },
            request: self.request.clone(),
            index: self.index,
            finish,
            cached_tokens: count(self.cached_tokens),
            tokens: std::mem::take(&mut self.tokens),
        })
    }

    /// Takes an update; there is none if the coordinator has ended.
    fn take(&mut self, update: Option<Update>) -> Result<Option<TokenEvent>, Error> {
        let result = match update {
            Some(Update::Started { cached_tokens }) => {
                self.cached_tokens = cached_tokens;
                Ok(None)
            }
            Some(Update::PromptLogprobs(mut logprobs)) => {
                self.prompt_logprobs.append(&mut logprobs);
                Ok(None)
            }
            Some(Update::Token { sample, .. }) if sample.token.score.model_logprob.is_nan() => {
                let reason = "the model's logits are not numbers: its weights may be damaged".to_owned();
                Err(Error::Generation { reason })
            }
            Some(Update::Token { sample, finish }) => {
                let event = self.event(&sample, finish);
                self.finish = event.finish;
                self.tokens.push(event.clone());
                Ok(Some(event))
            }
            Some(Update::Failed { reason }) => Err(Error::Generation { reason }),
            None => Err(Error::Incomplete),
        };
        if let Some(outcome_guard) = &mut self.outcome_guard {
            match &result {
                Ok(_) if self.finish.is_some() => outcome_guard.outcome = Outcome::Success,
                Ok(_) => {}
                Err(error) => outcome_guard.outcome = Outcome::from(error),
            }
        }
        result
    }

    fn event(&mut self, sample: &Sample, finish: Option<FinishReason>) -> TokenEvent {
        let piece = self.text.push(sample.token.id);
        let top = sample.top.iter().map(|&token| {
            let text = self.tokenizer.decode(&[token.id], false);
            scored(token, text, self.tokenizer.is_special(token.id))
        });
        TokenEvent {
            top: top.collect(),
            token: scored(sample.token, piece.token_text, piece.special),
            text: piece.text,
            // A stop string that is complete with the last token that was asked for changes nothing.
            finish: finish.or(piece.stopped.then_some(FinishReason::StopSequence)),
        }
    }

    /// The prompt as it was given, or what its token ids say.
    fn prompt_text(&self) -> String {
        let request = &self.request;
        request.text.clone().unwrap_or_else(|| self.tokenizer.decode(&request.prompt, false))
    }

    /// Of a request with several sequences, the first brings the prompt's probabilities for all.
    fn asks_for_prefill(&self) -> bool {
        self.request.decoder_input_details && self.index == 0
    }

    fn prefill(&self) -> Vec<PrefillToken> {
        // Nothing precedes the first token, so it has no probability.
        let logprobs = std::iter::once(None).chain(self.prompt_logprobs.iter().copied().map(Some));
        let tokens = self.request.prompt.iter().zip(logprobs);
        let token = |(&id, logprob)| PrefillToken { id, text: self.tokenizer.decode(&[id], false), logprob };
        tokens.map(token).collect()
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if let Some(deadline) = &self.deadline {
            deadline.abort();
        }
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn scored(token: ScoredToken, text: String, special: bool) -> Token {
    let ScoredToken { id, score } = token;
    Token { id, text, logprob: score.logprob, special, model_logprob: score.model_logprob }
}
