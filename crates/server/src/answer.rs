//! One sequence of a request, from its tokens to its text.

use crate::Error;
use crate::metrics::{Counted, Outcome};
use crate::places::Place;
use api::{BestOfSequence, Details, FinishReason, GenerateResponse, PrefillToken, StreamDetails, Token, ValidRequest};
use coordinator::{Generation, Update};
use std::sync::{Arc, Mutex, PoisonError};
use step::{Sample, ScoredToken};
use text::{OutputText, Tokenizer};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One sequence of a request that is under way. Dropping it ends the sequence.
pub struct Answer {
    generation: Generation,
    request: Arc<ValidRequest>,
    index: u32,
    tokenizer: Tokenizer,
    text: OutputText,
    prompt_logprobs: Vec<f32>,
    steps: Vec<Step>,
    finish: Option<FinishReason>,
    cached_tokens: usize,
    /// Taken away at the deadline, if there is one.
    place: Arc<Mutex<Option<Place>>>,
    deadline: Option<AbortHandle>,
    /// The request that it answers, if it is the one to tell how that ended.
    counted: Option<Counted>,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// It.
    pub token: Token,
    /// The most probable tokens beside it, if they were asked for.
    pub top: Vec<Token>,
    /// The text that can be shown with it, for faces that hold stop strings back.
    pub text: String,
    /// Why the sequence ends with it, if it does.
    pub finish: Option<FinishReason>,
}

/// A sequence that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    request: Arc<ValidRequest>,
    index: u32,
    generated_text: String,
    finish: FinishReason,
    cached_tokens: u32,
    prefill: Vec<PrefillToken>,
    steps: Vec<Step>,
}

impl Answer {
    pub(crate) fn new(
        generation: Generation,
        request: Arc<ValidRequest>,
        index: u32,
        tokenizer: Tokenizer,
        place: Place,
    ) -> Self {
        Self {
            generation,
            text: OutputText::new(tokenizer.clone(), &request.stop),
            request,
            index,
            tokenizer,
            prompt_logprobs: Vec::new(),
            steps: Vec::new(),
            finish: None,
            cached_tokens: 0,
            place: Arc::new(Mutex::new(Some(place))),
            deadline: None,
            counted: None,
        }
    }

    /// Has it tell how the request ended.
    pub(crate) fn count(&mut self, request: Counted) {
        self.counted = Some(request);
    }

    /// Ends the sequence at that time and frees its place, even if nobody asks for its tokens any more: a reader who has
    /// stopped reading holds nothing beyond its deadline but the tokens that it was sent.
    pub(crate) fn end_at(&mut self, deadline: Instant) {
        let (end, place) = (self.generation.end(), self.place.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(deadline).await;
            drop(end);
            place.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        self.deadline = Some(task.abort_handle());
    }

    /// The next token; `None` after the last one.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`] if the model fails, [`Error::Incomplete`] if the server ends.
    pub async fn next(&mut self) -> Result<Option<Step>, Error> {
        while self.finish.is_none() {
            let update = self.generation.next().await;
            if let Some(step) = self.take(update)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// The next token, if it is there already.
    ///
    /// # Errors
    ///
    /// As [`Answer::next`].
    pub fn try_next(&mut self) -> Result<Option<Step>, Error> {
        while self.finish.is_none() {
            let Some(update) = self.generation.try_next() else { break };
            if let Some(step) = self.take(Some(update))? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// Runs to the end.
    ///
    /// # Errors
    ///
    /// As [`Answer::next`].
    pub async fn finish(mut self) -> Result<Finished, Error> {
        while self.next().await?.is_some() {}
        self.into_finished().ok_or(Error::Incomplete)
    }

    /// The whole sequence, once it has ended.
    #[must_use]
    pub fn into_finished(mut self) -> Option<Finished> {
        let finish = self.finish?;
        // What was held back cannot become a stop string any more.
        let _ = self.text.finish();
        let prompt = if self.request.return_full_text { self.prompt_text() } else { String::new() };
        Some(Finished {
            generated_text: prompt + &self.text.with_stop(),
            prefill: if self.asks_for_prefill() { self.prefill() } else { Vec::new() },
            request: self.request.clone(),
            index: self.index,
            finish,
            cached_tokens: count(self.cached_tokens),
            steps: std::mem::take(&mut self.steps),
        })
    }

    /// Takes an update; there is none if the coordinator has ended.
    fn take(&mut self, update: Option<Update>) -> Result<Option<Step>, Error> {
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
                let step = self.step(&sample, finish);
                self.finish = step.finish;
                self.steps.push(step.clone());
                Ok(Some(step))
            }
            Some(Update::Failed { reason }) => Err(Error::Generation { reason }),
            None => Err(Error::Incomplete),
        };
        if let Some(counted) = &mut self.counted {
            match &result {
                Ok(_) if self.finish.is_some() => counted.outcome = Outcome::Success,
                Ok(_) => {}
                Err(error) => counted.outcome = Outcome::from(error),
            }
        }
        result
    }

    fn step(&mut self, sample: &Sample, finish: Option<FinishReason>) -> Step {
        let piece = self.text.push(sample.token.id);
        let top = sample.top.iter().map(|&token| {
            let text = self.tokenizer.decode(&[token.id], false);
            scored(token, text, self.tokenizer.is_special(token.id))
        });
        Step {
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

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(deadline) = &self.deadline {
            deadline.abort();
        }
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn scored(token: ScoredToken, text: String, special: bool) -> Token {
    let ScoredToken { id, score } = token;
    Token { id, text, logprob: score.logprob, special, model_logprob: score.model_logprob }
}

impl Finished {
    /// The answer to a request whose sequences have all ended: that of the highest mean log-probability, with the others
    /// in its details.
    ///
    /// # Panics
    ///
    /// If there is no sequence.
    #[must_use]
    pub fn best(mut sequences: Vec<Self>) -> GenerateResponse {
        let (prefill, cached_tokens) = (sequences[0].prefill.clone(), sequences[0].cached_tokens);
        for sequence in &mut sequences[1..] {
            (sequence.prefill, sequence.cached_tokens) = (prefill.clone(), cached_tokens);
        }
        let best = (0..sequences.len()).rev().max_by(|&a, &b| {
            let mean = |index: usize| sequences[index].mean_logprob();
            mean(a).total_cmp(&mean(b))
        });
        let best = sequences.remove(best.expect("a request has a sequence"));
        let (details, several) = (best.request.details, best.request.best_of > 1);
        let others = several.then(|| sequences.into_iter().map(Self::into_best_of_sequence).collect());
        let generated_text = best.generated_text.clone();
        GenerateResponse { generated_text, details: details.then(|| best.into_details(others)) }
    }

    /// The text, with the prompt before it where that was asked for.
    #[must_use]
    pub fn generated_text(&self) -> &str {
        &self.generated_text
    }

    /// The details that end a stream, if they were asked for.
    #[must_use]
    pub fn stream_details(&self) -> Option<StreamDetails> {
        self.request.details.then(|| StreamDetails {
            finish_reason: self.finish,
            generated_tokens: self.generated_tokens(),
            seed: self.request.seed(self.index),
            input_length: count(self.request.prompt.len()),
            cached_tokens: self.cached_tokens,
        })
    }

    fn generated_tokens(&self) -> u32 {
        count(self.steps.len())
    }

    fn mean_logprob(&self) -> f32 {
        self.steps.iter().map(|step| step.token.logprob).sum::<f32>() / self.steps.len() as f32
    }

    fn into_details(self, best_of_sequences: Option<Vec<BestOfSequence>>) -> Details {
        let (prompt_tokens, cached_tokens) = (count(self.request.prompt.len()), self.cached_tokens);
        let one = self.into_best_of_sequence();
        Details {
            finish_reason: one.finish_reason,
            generated_tokens: one.generated_tokens,
            seed: one.seed,
            prefill: one.prefill,
            tokens: one.tokens,
            best_of_sequences,
            top_tokens: one.top_tokens,
            prompt_tokens,
            cached_tokens,
        }
    }

    fn into_best_of_sequence(self) -> BestOfSequence {
        let with_top = self.request.top_n_tokens > 0;
        let (generated_tokens, seed) = (self.generated_tokens(), self.request.seed(self.index));
        let (tokens, top): (Vec<_>, Vec<_>) = self.steps.into_iter().map(|step| (step.token, step.top)).unzip();
        BestOfSequence {
            generated_text: self.generated_text,
            finish_reason: self.finish,
            generated_tokens,
            seed,
            prefill: self.prefill,
            tokens,
            top_tokens: if with_top { top } else { Vec::new() },
        }
    }
}

/// Positions fit 32 bits.
fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).expect("fewer tokens than positions")
}
