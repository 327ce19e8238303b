//! One sequence of a request that is under way, from its tokens to its text.

use crate::Error;
use api::{PromptToken, Token, TokenEvent, ValidRequest};
use coordinator::{StepRecord, Update};
use std::sync::Arc;
use step::{Sample, ScoredToken};
use text::{OutputText, StopMatcher, StopText, Tokenizer};
use tokio::time::Instant;

/// One sequence of a request that is under way.
pub(crate) struct Sequence {
    request: Arc<ValidRequest>,
    /// Which continuation of the request it is.
    choice: usize,
    tokenizer: Tokenizer,
    text: OutputText,
    prompt_logprobs: Vec<f32>,
    generated_tokens: u32,
    cached_tokens: usize,
    started: Option<Instant>,
    /// When its last token came.
    latest: Option<Instant>,
    is_open: bool,
    /// The first steps that had rows of it, where that was asked for.
    steps: Vec<Arc<StepRecord>>,
}

impl Sequence {
    pub(crate) fn new(request: Arc<ValidRequest>, choice: usize, tokenizer: Tokenizer, stops: StopMatcher) -> Self {
        let stop_text = if request.keep_stop { StopText::Keep } else { StopText::Drop };
        Self {
            text: OutputText::new(tokenizer.clone(), stops, stop_text).with_min_tokens(request.min_tokens),
            request,
            choice,
            tokenizer,
            prompt_logprobs: Vec::new(),
            generated_tokens: 0,
            cached_tokens: 0,
            started: None,
            latest: None,
            is_open: true,
            steps: Vec::new(),
        }
    }

    pub(crate) fn request(&self) -> &ValidRequest {
        &self.request
    }

    pub(crate) fn choice(&self) -> usize {
        self.choice
    }

    pub(crate) fn text(&self) -> &str {
        self.text.text()
    }

    /// The text of the prompt, with special tokens.
    pub(crate) fn prompt_text(&self) -> String {
        self.tokenizer.decode(&self.request.prompt, false)
    }

    pub(crate) fn take_text(&mut self) -> &str {
        self.text.take()
    }

    pub(crate) fn generated_tokens(&self) -> u32 {
        self.generated_tokens
    }

    pub(crate) fn seed(&self) -> Option<u64> {
        self.request.seed(self.choice)
    }

    pub(crate) fn cached_tokens(&self) -> u32 {
        u32::try_from(self.cached_tokens).expect("fewer tokens than positions")
    }

    /// The first steps that had rows of it, where that was asked for.
    pub(crate) fn steps(&self) -> &[Arc<StepRecord>] {
        &self.steps
    }

    /// When a step had it for the first time.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.started
    }

    /// When the last of its tokens so far came.
    pub(crate) fn latest(&self) -> Option<Instant> {
        self.latest
    }

    /// Whether its last token has not come yet.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// No token comes any more.
    pub(crate) fn close(&mut self) {
        self.is_open = false;
    }

    /// Takes what the coordinator says of it. `index` is its number among all of its stream.
    pub(crate) fn take(&mut self, index: usize, update: Update) -> Result<Option<TokenEvent>, Error> {
        match update {
            Update::Started { cached_tokens } => {
                self.cached_tokens = cached_tokens;
                self.started = Some(Instant::now());
                Ok(None)
            }
            Update::Step(step) => {
                self.steps.push(step);
                Ok(None)
            }
            Update::PromptLogprobs(mut logprobs) => {
                self.prompt_logprobs.append(&mut logprobs);
                Ok(None)
            }
            Update::Token { sample, .. } if sample.token.score.model_logprob.is_nan() => {
                let reason = "the model's logits are not numbers: its weights may be damaged".to_owned();
                Err(Error::Generation { reason })
            }
            Update::Token { sample, finish } => {
                let shown = self.text.push(sample.token.id);
                // A stop string that is complete with the last token that was asked for changes nothing.
                let finish = finish.or(shown.stopped.then_some(api::FinishReason::StopSequence));
                self.generated_tokens += 1;
                self.latest = Some(Instant::now());
                if finish.is_some() {
                    self.is_open = false;
                    self.text.finish();
                }
                let top = self.top(&sample);
                Ok(Some(TokenEvent { index, token: token(sample.token, shown.text, shown.special), top, finish }))
            }
            Update::Failed { reason } => Err(Error::Generation { reason }),
            Update::Lost { reason } => Err(Error::Lost { reason }),
        }
    }

    fn top(&self, sample: &Sample) -> Vec<Token> {
        let top = sample.top.iter().map(|&scored| {
            let text = self.tokenizer.decode(&[scored.id], false);
            token(scored, text, self.tokenizer.is_special(scored.id))
        });
        top.collect()
    }

    pub(crate) fn prompt(&self) -> Vec<PromptToken> {
        // Nothing precedes the first token, so it has no probability.
        let logprobs = self.prompt_logprobs.iter().copied().map(Some);
        let logprobs = std::iter::once(None).chain(logprobs).chain(std::iter::repeat(None));
        self.request.prompt.iter().zip(logprobs).map(|(&id, logprob)| PromptToken { id, logprob }).collect()
    }
}

fn token(scored: ScoredToken, text: String, special: bool) -> Token {
    let ScoredToken { id, score } = scored;
    Token { id, text, logprob: score.logprob, model_logprob: score.model_logprob, special }
}
