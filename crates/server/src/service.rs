//! What every API calls.

use crate::admission::{Admission, Permit};
use crate::chat::{Chat, unix_seconds};
use crate::dialects::tgi;
use crate::drain::Drain;
use crate::state::States;
use crate::telemetry::{Exposition, GenerationGuard, Outcome, Telemetry};
use crate::token_stream::{Arrival, Submitted};
use crate::tokenizing::{PromptEncoder, invalid};
use crate::{Error, State, StateName, TokenStream, TokenizerPool};
use api::{Answer, CheckedRequest, Conversation, Limits, Prompt, Request, ValidRequest, Violation};
use coordinator::{Coordinator, Occupancy, Submission, SubmitError};
use std::path::PathBuf;
use std::sync::Arc;
use step::BLOCK_TOKENS;
use text::{StopMatcher, Token, Tokenizer};
use tokio::sync::watch;
use tokio::time::Instant;

/// What runs, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Name of the model.
    pub model_id: String,
    /// Its folder.
    pub model_dir: PathBuf,
    /// Name of the backend.
    pub backend: String,
    /// The tensor-parallel degree.
    pub tensor_parallel: usize,
    /// The most that a request may ask for.
    pub limits: Limits,
    /// The most that it may ask for in TGI's dialect, which gRPC has, too.
    pub tgi: tgi::Limits,
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
    chat: Chat,
    /// When it began, in seconds since 1970.
    created: u64,
    /// Tokens that end a text.
    eos: Vec<u32>,
    /// One permit for each sequence that may be under way.
    admission: Admission,
    drain: Drain,
    states: States,
    telemetry: Telemetry,
}

impl Service {
    /// A service over a coordinator, which may still be loading, and tells `telemetry` of its steps. `eos` are the tokens that
    /// end a text.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn new(
        coordinator: Coordinator,
        tokenizing: TokenizerPool,
        chat: Chat,
        eos: Vec<u32>,
        info: Info,
        telemetry: Telemetry,
    ) -> Self {
        telemetry.describe(&info);
        let admission = Admission::new(info.max_concurrent_requests);
        let (created, drain) = (unix_seconds(), Drain::default());
        let states = States::follow(coordinator.status(), drain.clone());
        Self(Arc::new(Shared {
            info,
            coordinator,
            tokenizing,
            chat,
            created,
            eos,
            admission,
            drain,
            states,
            telemetry,
        }))
    }

    /// What runs.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.0.info
    }

    /// When the service began, in seconds since 1970.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.0.created
    }

    /// Tokens for which the KV cache has room.
    #[must_use]
    pub fn kv_tokens(&self) -> usize {
        self.0.coordinator.kv_tokens()
    }

    /// What the server is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.states.now()
    }

    /// The same, now and from now on.
    #[must_use]
    pub fn state_changes(&self) -> watch::Receiver<State> {
        self.0.states.watch()
    }

    /// Takes no new requests from now on, and finishes those that were taken.
    pub fn drain(&self) {
        self.0.drain.begin();
    }

    /// Takes requests again. Says whether it does: a server that ends does not.
    pub fn undrain(&self) -> bool {
        self.0.drain.undo()
    }

    /// Takes no new requests from now on, finishes those that were taken or are on their way, and then lets the coordinator end.
    ///
    /// Must be called within a tokio runtime.
    pub fn end(&self) {
        self.0.drain.end();
        let Self(shared) = self.clone();
        tokio::spawn(async move {
            shared.drain.quiet().await;
            shared.coordinator.drain();
        });
    }

    /// Whether it ends: [`Service::end`].
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.0.drain.turn().is_end()
    }

    /// Whether requests are taken.
    pub(crate) fn drains(&self) -> &Drain {
        &self.0.drain
    }

    /// What runs and what waits, as of the last step.
    pub(crate) fn load(&self) -> Occupancy {
        self.0.coordinator.activity().load
    }

    /// All metrics.
    pub(crate) fn metrics(&self, format: Exposition) -> String {
        let Shared { coordinator, telemetry, .. } = &*self.0;
        let (blocks, state) = (coordinator.kv_tokens() / BLOCK_TOKENS, self.state().name);
        telemetry.exposition(format, &coordinator.activity(), blocks, state)
    }

    /// Whom it tells of its requests.
    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    /// The tokens of a text; if `add_special_tokens`, as a prompt of it would have them. It may be as long as a prompt, in bytes; how
    /// many tokens it has does not matter.
    ///
    /// # Errors
    ///
    /// The tokenizer's, as [`Error::Validation`], or [`Error::Overloaded`].
    pub async fn tokenize(&self, text: String, add_special_tokens: bool) -> Result<Vec<Token>, Error> {
        let _permit = self.0.admission.take()?;
        self.0.info.limits.check_bytes(&text)?;
        let job = move |tokenizer: &Tokenizer, _: &dyn Fn() -> bool| {
            tokenizer.tokens(&text, add_special_tokens).map_err(|error| invalid(&error))
        };
        self.0.tokenizing.run(job).await
    }

    /// The prompt of a conversation, in text, and its tokens. How many there are does not matter.
    ///
    /// # Errors
    ///
    /// The chat template's, the tokenizer's, as [`Error::Validation`], or [`Error::Overloaded`].
    pub async fn tokenize_conversation(
        &self,
        conversation: Conversation,
        add_special_tokens: bool,
    ) -> Result<(String, Vec<Token>), Error> {
        let _permit = self.0.admission.take()?;
        let (chat, limits) = (self.0.chat.clone(), self.0.info.limits);
        let job = move |tokenizer: &Tokenizer, _: &dyn Fn() -> bool| {
            let prompt = chat.render(&dated(conversation))?;
            limits.check_bytes(&prompt)?;
            let tokens = tokenizer.tokens(&prompt, add_special_tokens).map_err(|error| invalid(&error))?;
            Ok((prompt, tokens))
        };
        self.0.tokenizing.run(job).await
    }

    /// Texts that end an answer in the format of the model's conversations.
    #[must_use]
    pub fn chat_stops(&self) -> &[String] {
        self.0.chat.template.stops()
    }

    /// The text of tokens.
    ///
    /// # Errors
    ///
    /// [`Violation::TokenId`].
    pub fn detokenize(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        let vocab_size = self.0.info.limits.vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            Some(index) => Err(Violation::TokenId { vocab_size, id: ids[index], index }.into()),
            None => Ok(self.tokenizer().decode(ids, skip_special)),
        }
    }

    /// How many threads tokenize.
    #[must_use]
    pub fn tokenizer_threads(&self) -> usize {
        self.0.tokenizing.threads()
    }

    /// The tokenizer, for what takes no time.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        self.0.tokenizing.tokenizer()
    }

    /// Starts a request, whose tokens come as they are made.
    ///
    /// # Errors
    ///
    /// [`Error`], before anything runs.
    pub async fn start(&self, request: Request) -> Result<TokenStream, Error> {
        self.start_all(vec![request]).await
    }

    /// Starts requests that came as one: all or none.
    ///
    /// # Errors
    ///
    /// [`Error`], before anything runs.
    pub async fn start_all(&self, requests: Vec<Request>) -> Result<TokenStream, Error> {
        let mut guard = GenerationGuard::new(&self.0.telemetry);
        let received = Instant::now();
        match self.submit(requests, guard.steps_traced()).await {
            Ok((submitted, queued)) => {
                let arrival = Arrival { received, queued };
                Ok(TokenStream::new(submitted, self.tokenizer(), arrival, guard))
            }
            Err(error) => {
                guard.outcome = Outcome::from(&error);
                Err(error)
            }
        }
    }

    /// Answers a request as a whole. Dropping the future ends the request.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn generate(&self, request: Request) -> Result<Answer, Error> {
        let mut answers = self.start(request).await?.finish().await?;
        answers.pop().ok_or(Error::Incomplete)
    }

    /// Checks that so many prompts with so many continuations each can be under way at once. Whoever has a list of prompts asks
    /// before making a request of each.
    pub(crate) fn check_prompts(&self, prompts: usize, continuations: usize) -> Result<(), Violation> {
        let (max, given) = (self.0.info.max_concurrent_requests, prompts.saturating_mul(continuations));
        // Of one prompt, the limits of a request say more.
        if prompts > 1 && given > max { Err(Violation::TooManyContinuations { max, given }) } else { Ok(()) }
    }

    /// Counts a request that its dialect refuses.
    pub(crate) fn translated<T>(&self, request: Result<T, Violation>) -> Result<T, Error> {
        request.map_err(|violation| {
            self.count_rejection();
            Error::from(violation)
        })
    }

    /// Counts a request that could not be read.
    pub(crate) fn count_rejection(&self) {
        GenerationGuard::new(&self.0.telemetry).outcome = Outcome::Validation;
    }

    /// Validates requests and queues their sequences, which run side by side. Those of one prompt share its prefill. Says when they
    /// were queued, too. Their callers hear of the first `steps`.
    async fn submit(&self, requests: Vec<Request>, steps: usize) -> Result<(Vec<Submitted>, Instant), Error> {
        let Shared { info, drain, .. } = &*self.0;
        if !drain.takes() {
            return Err(SubmitError::Draining.into());
        }
        let (mut permits, mut valid) = (Vec::new(), Vec::new());
        for request in requests {
            // Before the work of tokenizing, which is what a request beyond the limit must not cost.
            permits.push(self.permit_to_generate()?);
            let request = api::check(request, &info.limits, fastrand::u64(..))?;
            valid.push(Arc::new(self.encode(request).await?));
        }
        let (mut submitted, queued) = (Vec::new(), Instant::now());
        for request in valid {
            let stops = StopMatcher::new(&request.stop);
            for choice in 0..request.best_of {
                let permit = permits.pop().map_or_else(|| self.permit_to_generate(), Ok)?;
                let generation = self.0.coordinator.submit_traced(self.submission(&request, choice), steps)?;
                let (request, stops) = (request.clone(), stops.clone());
                submitted.push(Submitted { generation, permit, request, choice, stops });
            }
        }
        Ok((submitted, queued))
    }

    /// One sequence's right to run or wait, which an end waits for. Where there is none, a model that recovers is not overloaded.
    fn permit_to_generate(&self) -> Result<Permit, Error> {
        let permit = self.0.admission.take().map(|permit| permit.with(self.0.drain.work()));
        permit.map_err(|error| match error {
            Error::Overloaded { retry_after } if self.state().name == StateName::Recovering => {
                Error::Recovering { retry_after }
            }
            error => error,
        })
    }

    /// Continuation `choice` of a request.
    fn submission(&self, request: &ValidRequest, choice: usize) -> Submission {
        Submission {
            prompt: request.prompt.clone(),
            max_new_tokens: request.max_tokens as usize,
            eos: if request.ignore_eos { Vec::new() } else { self.0.eos.clone() },
            stop_token_ids: request.stop_token_ids.clone(),
            min_tokens: request.min_tokens as usize,
            sampling: request.sampling(choice),
            priority: request.priority,
            // They are the same for all sequences; the others need not compute the prompt again.
            prompt_logprobs: request.prompt_logprobs && choice == 0,
            top_n: request.top_tokens as usize,
            return_logits: false,
        }
    }

    /// Tokenizes the prompt of a request.
    async fn encode(&self, mut request: CheckedRequest) -> Result<ValidRequest, Error> {
        let Shared { info, tokenizing, chat, .. } = &*self.0;
        let limits = info.limits;
        if let (Prompt::Text(text), true) = (&mut request.prompt, request.truncate.is_some()) {
            // What is before cannot be in the prompt, and must not wait for a thread either.
            let tail = tokenizing.tokenizer().tail(text, limits.max_input_bytes()).len();
            text.drain(..text.len() - tail);
            text.shrink_to_fit();
        }
        if matches!(request.prompt, Prompt::Ids(_)) {
            return Ok(request.encode(&limits, |_, _| unreachable!("ids are not encoded"))?);
        }
        let chat = chat.clone();
        let job = move |tokenizer: &Tokenizer, goes_on: &dyn Fn() -> bool| {
            let (room, add_special_tokens) = (request.prompt_tokens_max(&limits), request.add_special_tokens);
            let is_conversation = matches!(request.prompt, Prompt::Conversation(_));
            let mut valid = request.encode(&limits, |prompt, truncate| {
                let encoder = PromptEncoder { tokenizer, limits: &limits, truncate, goes_on };
                match prompt {
                    Prompt::Text(text) => encoder.text(&text, add_special_tokens),
                    Prompt::Ids(ids) => Ok(ids),
                    Prompt::Conversation(conversation) => chat.encode(&encoder, &dated(*conversation), room),
                }
            })?;
            if is_conversation {
                valid.stop.extend_from_slice(chat.template.stops());
            }
            Ok(valid)
        };
        tokenizing.run(job).await
    }
}

/// The conversation, as of now: templates may print the date.
fn dated(conversation: Conversation) -> Conversation {
    Conversation { unix_seconds: unix_seconds(), ..conversation }
}
