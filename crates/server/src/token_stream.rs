//! One sequence of a request that is under way, from its tokens to its text.

use crate::admission::Permit;
use crate::completion::count;
use crate::metrics::{Outcome, OutcomeGuard};
use crate::{Completion, Error};
use api::{FinishReason, PrefillToken, Token, ValidRequest};
use coordinator::{Generation, Update};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use step::{Sample, ScoredToken};
use text::{OutputText, Tokenizer};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How often a reader is looked at within the limit for standing still.
const LOOKS: u32 = 4;

/// One sequence of a request that is under way. Dropping it ends the sequence.
pub struct TokenStream {
    request: Arc<ValidRequest>,
    index: u32,
    tokenizer: Tokenizer,
    text: OutputText,
    prompt_logprobs: Vec<f32>,
    tokens: Vec<TokenEvent>,
    finish: Option<FinishReason>,
    cached_tokens: usize,
    hold: Arc<Mutex<Hold>>,
    /// Ends the sequence if its reader does not.
    watch: Option<AbortHandle>,
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
            text: OutputText::new(tokenizer.clone(), &request.stop),
            request,
            index,
            tokenizer,
            prompt_logprobs: Vec::new(),
            tokens: Vec::new(),
            finish: None,
            cached_tokens: 0,
            hold: Arc::new(Mutex::new(Hold { generation, permit: Some(permit), polls: 0, stalled: None })),
            watch: None,
            outcome_guard: None,
        }
    }

    /// Lets this sequence say how the whole request ended.
    pub(crate) fn count(&mut self, guard: OutcomeGuard) {
        self.outcome_guard = Some(guard);
    }

    /// Ends the sequence and returns its permit at the deadline, and when tokens lie untouched for `stall_limit`: a reader who has
    /// stopped reading holds nothing beyond that but the tokens that it was sent.
    pub(crate) fn end_without_reader(&mut self, deadline: Option<Instant>, stall_limit: Option<Duration>) {
        if deadline.is_some() || stall_limit.is_some() {
            let task = tokio::spawn(watch(self.hold.clone(), deadline, stall_limit));
            self.watch = Some(task.abort_handle());
        }
    }

    /// The next token; `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`] if the model fails, [`Error::Incomplete`] if the server ends, [`Error::Stalled`] if the reader had
    /// stood still.
    pub async fn next(&mut self) -> Result<Option<TokenEvent>, Error> {
        while self.finish.is_none() {
            let update = poll_fn(|cx| {
                let mut hold = lock(&self.hold);
                hold.polls += 1;
                hold.generation.poll_next(cx)
            })
            .await;
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
            let Some(update) = lock(&self.hold).generation.try_next() else { break };
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
        let prompt = if self.request.return_full_text { self.prompt_text() } else { String::new() };
        Some(Completion {
            generated_text: prompt + &self.text.finish(),
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
            None => Err(lock(&self.hold).stalled.map_or(Error::Incomplete, |limit| Error::Stalled { limit })),
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
        let shown = self.text.push(sample.token.id);
        let top = sample.top.iter().map(|&token| {
            let text = self.tokenizer.decode(&[token.id], false);
            scored(token, text, self.tokenizer.is_special(token.id))
        });
        TokenEvent {
            top: top.collect(),
            token: scored(sample.token, shown.text, shown.special),
            // A stop string that is complete with the last token that was asked for changes nothing.
            finish: finish.or(shown.stopped.then_some(FinishReason::StopSequence)),
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
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        lock(&self.hold).release();
    }
}

/// What a stream shares with the task that watches its reader.
struct Hold {
    generation: Generation,
    permit: Option<Permit>,
    /// How often the reader has asked for a token.
    polls: u64,
    /// The limit that the reader broke.
    stalled: Option<Duration>,
}

impl Hold {
    /// Ends the sequence and returns its permit. What it has brought can still be read.
    fn release(&mut self) {
        self.permit = None;
        drop(self.generation.end());
    }
}

fn lock(hold: &Mutex<Hold>) -> MutexGuard<'_, Hold> {
    hold.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Releases what a stream holds once the deadline has passed, or its reader has left tokens untouched for the limit. That is
/// counted in looks, not by the clock: a process that was stopped for longer than the limit has not looked meanwhile.
async fn watch(hold: Arc<Mutex<Hold>>, deadline: Option<Instant>, stall_limit: Option<Duration>) {
    let (mut untouched, mut looks) = (None, 0);
    loop {
        let look = stall_limit.map(|limit| Instant::now() + limit / LOOKS);
        let Some(at) = deadline.into_iter().chain(look).min() else { return };
        tokio::time::sleep_until(at).await;
        let mut hold = lock(&hold);
        let found = hold.generation.has_next().then_some(hold.polls);
        looks = if found.is_some() && found == untouched { looks + 1 } else { 0 };
        untouched = found;
        if looks == LOOKS {
            hold.stalled = stall_limit;
        }
        if hold.stalled.is_some() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return hold.release();
        }
    }
}

fn scored(token: ScoredToken, text: String, special: bool) -> Token {
    let ScoredToken { id, score } = token;
    Token { id, text, logprob: score.logprob, special, model_logprob: score.model_logprob }
}
