//! What every API calls.

use crate::admission::Admission;
use crate::metrics::{Metrics, Outcome, OutcomeGuard};
use crate::tokenizing::{encode_prompt, invalid};
use crate::{Completion, Error, TokenStream, TokenizerPool};
use api::{CheckedRequest, GenerateRequest, GenerateResponse, Inputs, Limits, ValidRequest};
use coordinator::{Coordinator, Status, Submission};
use std::sync::Arc;
use step::BLOCK_TOKENS;
use text::{Token, Tokenizer};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What runs, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Name of the model.
    pub model_id: String,
    /// Name of the backend.
    pub backend: String,
    /// The tensor-parallel degree.
    pub tensor_parallel: usize,
    /// The most that a request may ask for.
    pub limits: Limits,
    /// The most requests that are under way at once.
    pub max_concurrent_requests: usize,
}

/// A model that answers requests. Clones lead to the same one.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    info: Info,
    coordinator: Coordinator,
    tokenizing: TokenizerPool,
    /// Tokens that end a text.
    eos: Vec<u32>,
    /// One permit for each sequence that may be under way.
    admission: Admission,
    metrics: Arc<Metrics>,
}

impl Service {
    /// A service over a coordinator, which may still be loading. `eos` are the tokens that end a text.
    #[must_use]
    pub fn new(coordinator: Coordinator, tokenizing: TokenizerPool, eos: Vec<u32>, info: Info) -> Self {
        let (admission, metrics) = (Admission::new(info.max_concurrent_requests), Arc::default());
        Self(Arc::new(Shared { info, coordinator, tokenizing, eos, admission, metrics }))
    }

    /// What runs.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.0.info
    }

    /// Tokens for which the KV cache has room.
    #[must_use]
    pub fn kv_tokens(&self) -> usize {
        self.0.coordinator.kv_tokens()
    }

    /// How the model is, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.coordinator.status()
    }

    /// What has been counted, in the text that Prometheus reads.
    #[must_use]
    pub fn metrics(&self) -> String {
        let Shared { coordinator, metrics, .. } = &*self.0;
        metrics.text(&coordinator.activity(), coordinator.kv_tokens() / BLOCK_TOKENS)
    }

    /// The tokens of a text, as a prompt of it would have them. It may be as long as a prompt, in bytes; how many tokens it
    /// has does not matter.
    ///
    /// # Errors
    ///
    /// The tokenizer's, as [`Error::Validation`], or [`Error::Overloaded`].
    pub async fn tokenize(&self, text: String) -> Result<Vec<Token>, Error> {
        let _permit = self.0.admission.take()?;
        self.0.info.limits.check_bytes(&text)?;
        self.0.tokenizing.run(move |tokenizer, _| tokenizer.tokens(&text).map_err(|error| invalid(&error))).await
    }

    /// Starts a request whose answer is wanted token by token.
    ///
    /// # Errors
    ///
    /// [`Error`], before anything runs.
    pub async fn stream(&self, request: GenerateRequest) -> Result<TokenStream, Error> {
        let mut streams = self.start(request, true).await?;
        Ok(streams.pop().expect("a stream has one sequence"))
    }

    /// Answers a request as a whole. Dropping the future ends the request.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn generate(&self, request: GenerateRequest) -> Result<GenerateResponse, Error> {
        // Each on a task of its own, so that a stop string ends its sequence at once. Dropping the set ends all.
        let mut tasks = JoinSet::new();
        for (index, stream) in self.start(request, false).await?.into_iter().enumerate() {
            tasks.spawn(async move { Ok::<_, Error>((index, stream.finish().await?)) });
        }
        let mut completions = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            completions.push(joined.map_err(|_| Error::Incomplete)??);
        }
        completions.sort_by_key(|(index, _)| *index);
        Ok(Completion::best(completions.into_iter().map(|(_, completion)| completion).collect()))
    }

    /// Counts a request that could not be read.
    pub(crate) fn count_rejection(&self) {
        OutcomeGuard::new(&self.0.metrics).outcome = Outcome::Validation;
    }

    /// Validates a request and queues its sequences, which run side by side.
    async fn start(&self, request: GenerateRequest, stream: bool) -> Result<Vec<TokenStream>, Error> {
        let mut guard = OutcomeGuard::new(&self.0.metrics);
        let streams = self.try_start(request, stream).await;
        match streams {
            Ok(mut streams) => {
                // The first speaks for all.
                streams[0].count(guard);
                Ok(streams)
            }
            Err(error) => {
                guard.outcome = Outcome::from(&error);
                Err(error)
            }
        }
    }

    async fn try_start(&self, request: GenerateRequest, stream: bool) -> Result<Vec<TokenStream>, Error> {
        let Shared { info, coordinator, tokenizing, eos, admission, .. } = &*self.0;
        // Before the work of tokenizing, which is what a request beyond the limit must not cost.
        let mut first_permit = Some(admission.take()?);
        let request = api::check(request, stream, &info.limits, fastrand::u64(..))?;
        let request = Arc::new(self.encode(request).await?);
        let start = |index| {
            let permit = first_permit.take().map_or_else(|| admission.take(), Ok)?;
            let generation = coordinator.submit(Submission {
                prompt: request.prompt.clone(),
                max_new_tokens: request.max_new_tokens as usize,
                eos: if request.ignore_eos { Vec::new() } else { eos.clone() },
                sampling: request.sampling(index),
                priority: request.priority,
                // They are the same for all sequences; the others need not compute the prompt again.
                prompt_logprobs: request.decoder_input_details && index == 0,
                top_n: request.top_n_tokens as usize,
                return_logits: false,
            })?;
            Ok(TokenStream::new(generation, request.clone(), index, tokenizing.tokenizer().clone(), permit))
        };
        (0..request.best_of).map(start).collect()
    }

    /// Tokenizes the prompt of a request.
    async fn encode(&self, mut request: CheckedRequest) -> Result<ValidRequest, Error> {
        let Shared { info, tokenizing, .. } = &*self.0;
        let limits = info.limits;
        if let (Inputs::Text(text), true) = (&mut request.prompt, request.truncate.is_some()) {
            // What is before cannot be in the prompt, and must not wait for a thread either.
            let tail = tokenizing.tokenizer().tail(text, limits.max_input_bytes()).len();
            text.drain(..text.len() - tail);
            text.shrink_to_fit();
        }
        if matches!(request.prompt, Inputs::Ids(_)) {
            return Ok(request.encode(&limits, |_, _| unreachable!("ids are not encoded"))?);
        }
        let job = move |tokenizer: &Tokenizer, goes_on: &dyn Fn() -> bool| {
            let vocab = limits.vocab_size;
            request.encode(&limits, |text, truncate| encode_prompt(tokenizer, text, truncate, vocab, goes_on))
        };
        tokenizing.run(job).await
    }
}
