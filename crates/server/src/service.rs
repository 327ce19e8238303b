//! What every face calls.

use crate::metrics::{Counted, Metrics, Outcome};
use crate::places::Places;
use crate::{Answer, Error, Finished};
use api::{GenerateRequest, GenerateResponse, Inputs, Limits, ValidationError};
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
    tokenizer: Tokenizer,
    /// Tokens that end a text.
    eos: Vec<u32>,
    /// One for each sequence that may be under way.
    places: Places,
    metrics: Arc<Metrics>,
}

impl Service {
    /// A service over a coordinator, which may still be loading. `eos` are the tokens that end a text.
    #[must_use]
    pub fn new(coordinator: Coordinator, tokenizer: Tokenizer, eos: Vec<u32>, info: Info) -> Self {
        let (places, metrics) = (Places::new(info.max_concurrent_requests), Arc::default());
        Self(Arc::new(Shared { info, coordinator, tokenizer, eos, places, metrics }))
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

    /// Cuts a text into tokens.
    ///
    /// # Errors
    ///
    /// The tokenizer's, as [`Error::Validation`], or [`Error::Overloaded`].
    pub async fn tokenize(&self, text: String) -> Result<Vec<Token>, Error> {
        let _place = self.0.places.take()?;
        let tokenizer = self.0.tokenizer.clone();
        let tokens = move || tokenizer.tokens(&text).map_err(|error| ValidationError::Tokenizer(error.to_string()));
        Ok(off_runtime(tokens).await?)
    }

    /// Starts a request whose answer is wanted token by token.
    ///
    /// # Errors
    ///
    /// [`Error`], before anything runs.
    pub async fn stream(&self, request: GenerateRequest) -> Result<Answer, Error> {
        let mut answers = self.start(request, true).await?;
        Ok(answers.pop().expect("a stream has one sequence"))
    }

    /// Answers a request as a whole. Dropping the future ends the request.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn generate(&self, request: GenerateRequest) -> Result<GenerateResponse, Error> {
        // Each on a task of its own, so that a stop string ends its sequence at once. Dropping the set ends all.
        let mut tasks = JoinSet::new();
        for (index, answer) in self.start(request, false).await?.into_iter().enumerate() {
            tasks.spawn(async move { Ok::<_, Error>((index, answer.finish().await?)) });
        }
        let mut finished = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            finished.push(joined.map_err(|_| Error::Incomplete)??);
        }
        finished.sort_by_key(|(index, _)| *index);
        Ok(Finished::best(finished.into_iter().map(|(_, finished)| finished).collect()))
    }

    /// Counts a request that could not be read.
    pub(crate) fn count_rejection(&self) {
        Counted::new(&self.0.metrics).outcome = Outcome::Validation;
    }

    /// Validates a request and queues its sequences, which run side by side.
    async fn start(&self, request: GenerateRequest, stream: bool) -> Result<Vec<Answer>, Error> {
        let mut counted = Counted::new(&self.0.metrics);
        let answers = self.try_start(request, stream).await;
        match answers {
            Ok(mut answers) => {
                // The first speaks for all.
                answers[0].count(counted);
                Ok(answers)
            }
            Err(error) => {
                counted.outcome = Outcome::from(&error);
                Err(error)
            }
        }
    }

    async fn try_start(&self, request: GenerateRequest, stream: bool) -> Result<Vec<Answer>, Error> {
        let Shared { info, coordinator, tokenizer, eos, places, .. } = &*self.0;
        // Before the work of tokenizing, which is what a request beyond the limit must not cost.
        let mut first_place = Some(places.take()?);
        let (limits, encoder, by_ids) = (info.limits, tokenizer.clone(), matches!(request.inputs, Inputs::Ids(_)));
        let validate = move || {
            let encode = |text: &str| encoder.encode(text).map_err(|error| error.to_string());
            api::validate(request, stream, &limits, fastrand::u64(..), encode)
        };
        // Ids need no tokenizing.
        let request = Arc::new(if by_ids { validate()? } else { off_runtime(validate).await? });
        let start = |index| {
            let place = first_place.take().map_or_else(|| places.take(), Ok)?;
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
            Ok(Answer::new(generation, request.clone(), index, tokenizer.clone(), place))
        };
        (0..request.best_of).map(start).collect()
    }
}

/// Tokenizing a long text takes long, and the threads of the runtime also lead the ranks.
async fn off_runtime<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
