//! What every face calls.

use crate::{Answer, Error, Finished};
use api::{GenerateRequest, GenerateResponse, Limits};
use coordinator::{Coordinator, Status, Submission};
use std::sync::Arc;
use text::{Token, Tokenizer, TokenizerError};
use tokio::sync::{Semaphore, watch};

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
    /// One permit for each sequence that may be under way.
    permits: Arc<Semaphore>,
}

impl Service {
    /// A service over a coordinator, which may still be loading. `eos` are the tokens that end a text.
    #[must_use]
    pub fn new(coordinator: Coordinator, tokenizer: Tokenizer, eos: Vec<u32>, info: Info) -> Self {
        let permits = Arc::new(Semaphore::new(info.max_concurrent_requests));
        Self(Arc::new(Shared { info, coordinator, tokenizer, eos, permits }))
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

    /// Cuts a text into tokens.
    ///
    /// # Errors
    ///
    /// The tokenizer's.
    pub fn tokenize(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        self.0.tokenizer.tokens(text)
    }

    /// Starts a request whose answer is wanted token by token.
    ///
    /// # Errors
    ///
    /// [`Error`], before anything runs.
    pub fn stream(&self, request: GenerateRequest) -> Result<Answer, Error> {
        let mut answers = self.start(request, true)?;
        Ok(answers.pop().expect("a stream has one sequence"))
    }

    /// Answers a request as a whole. Dropping the future ends the request.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn generate(&self, request: GenerateRequest) -> Result<GenerateResponse, Error> {
        let mut finished = Vec::new();
        for mut answer in self.start(request, false)? {
            while answer.next().await?.is_some() {}
            finished.push(answer.into_finished().ok_or(Error::Incomplete)?);
        }
        Ok(Finished::best(finished))
    }

    /// Validates a request and queues its sequences, which run side by side.
    fn start(&self, request: GenerateRequest, stream: bool) -> Result<Vec<Answer>, Error> {
        let Shared { info, coordinator, tokenizer, eos, permits } = &*self.0;
        let encode = |text: &str| tokenizer.encode(text).map_err(|error| error.to_string());
        let request = Arc::new(api::validate(request, stream, &info.limits, fastrand::u64(..), encode)?);
        let start = |index| {
            let permit = permits.clone().try_acquire_owned().map_err(|_| Error::Overloaded)?;
            let generation = coordinator.submit(Submission {
                prompt: request.prompt.clone(),
                max_new_tokens: request.max_new_tokens as usize,
                eos: if request.ignore_eos { Vec::new() } else { eos.clone() },
                sampling: request.sampling(index),
                prompt_logprobs: request.decoder_input_details,
                top_n: request.top_n_tokens as usize,
                return_logits: false,
            })?;
            Ok(Answer::new(generation, request.clone(), index, tokenizer.clone(), permit))
        };
        (0..request.best_of).map(start).collect()
    }
}
