//! `POST /v1/completions`.

use super::error::{Failure, Form};
use super::logprobs::{CompletionLogprobs, Offsets, Spelling};
use super::prompts::Prompts;
use super::request::{Parameters, read};
use super::response::{Completion, CompletionBody, CompletionChoice, Head, Usage, UsageEvents, finish_reason};
use super::unsupported;
use crate::http::{EventBuffer, Events, JsonHead, Reply, RequestId, Shared, event_stream};
use crate::{Error, Service, TokenStream};
use api::{Answer, Field, Prompt, PromptToken, Request, TokenEvent, Violation};
use axum::Json;
use axum::response::IntoResponse;
use serde::Deserialize;

const DEFAULT_MAX_TOKENS: u32 = 16;
/// OpenAI's limit.
const LOGPROBS_MAX: u32 = 5;

/// What completions have beside [`Parameters`].
#[derive(Clone, Debug, PartialEq, Deserialize, utoipa::ToSchema)]
pub struct CompletionRequest {
    /// What is continued.
    pub prompt: Prompts,
    /// The most tokens to generate; 16. 0 goes with `echo`.
    pub max_tokens: Option<u32>,
    /// Make so many continuations and answer with the `n` likeliest; `n`.
    pub best_of: Option<usize>,
    /// Put the prompt before its continuations; no.
    pub echo: Option<bool>,
    /// Answer with log-probabilities, and those of so many of the most probable tokens; none.
    pub logprobs: Option<u32>,
}

/// A request as it is run, and how it is answered.
struct Call {
    requests: Vec<Request>,
    shape: Shape,
    streams: bool,
    usage_events: UsageEvents,
}

/// What an answer is to hold.
struct Shape {
    /// Continuations of a prompt.
    n: usize,
    logprobs: bool,
    echo: bool,
    /// Nothing but the prompt is wanted.
    prompt_alone: bool,
    /// The prompts' texts, where they are known before the tokens are.
    texts: Vec<Option<String>>,
    /// The ids of tokens.
    ids: bool,
    spelling: Spelling,
}

/// Answers the request in `body`, whose id is `id`.
pub(super) async fn answer(shared: &Shared, id: &RequestId, body: &[u8]) -> Result<Reply, Failure> {
    let Shared { service, stall_limit, .. } = shared;
    let call = Call::read(body, service).inspect_err(|_| service.count_rejection())?;
    let failed = |error: Error| Failure::new(&error, Form::Completion);
    let head = Head::new(format!("cmpl-{id}"), "text_completion", service);
    let mut tokens = service.start_all(call.requests).await.map_err(failed)?;
    if !call.streams {
        let answers = tokens.finish().await.map_err(failed)?;
        return Ok(Reply::Whole(Json(call.shape.completion(head, answers)).into_response()));
    }
    tokens.end_without_reader(None, Some(*stall_limit));
    let offsets = vec![None; tokens.continuations()];
    let events =
        CompletionEvents { head: JsonHead::new(&head), shape: call.shape, usage_events: call.usage_events, offsets };
    Ok(Reply::Stream(event_stream(tokens, events).await.map_err(failed)?))
}

impl Call {
    fn read(body: &[u8], service: &Service) -> Result<Self, Failure> {
        unsupported::check(body)?;
        let parameters: Parameters = read(body)?;
        let CompletionRequest { prompt: Prompts(prompts), max_tokens, best_of, echo, logprobs } = read(body)?;
        let (streams, usage_events) = (parameters.streams(), parameters.usage_events()?);
        let (echo, n) = (echo.unwrap_or(false), parameters.n.unwrap_or(1));
        let broken = |violation| Failure::new(&Error::Validation(violation), Form::Completion);
        if let Some(given) = logprobs.filter(|&given| given > LOGPROBS_MAX) {
            let (max, given) = (LOGPROBS_MAX as usize, given as usize);
            return Err(broken(Violation::TooMany { field: Field::TopTokens, max, given }));
        }
        if streams && best_of.is_some_and(|best_of| best_of > n) {
            return Err(broken(Violation::Conflict { field: Field::BestOf, with: Field::Stream }));
        }
        service.check_prompts(prompts.len(), best_of.unwrap_or(n)).map_err(broken)?;
        let prompt_alone = echo && max_tokens == Some(0);
        let truncates = parameters.truncate_prompt_tokens.is_some();
        let text = |prompt: &Prompt| match prompt {
            Prompt::Text(text) if echo && !truncates => Some(text.clone()),
            _ => None,
        };
        let shape = Shape {
            n,
            logprobs: logprobs.is_some(),
            echo,
            prompt_alone,
            texts: prompts.iter().map(text).collect(),
            ids: parameters.return_token_ids.unwrap_or(false),
            spelling: parameters.spelling(service.tokenizer()),
        };
        let request = Request {
            max_tokens: Some(if prompt_alone { 1 } else { max_tokens.unwrap_or(DEFAULT_MAX_TOKENS) }),
            best_of,
            prompt_logprobs: echo && logprobs.is_some(),
            top_tokens: logprobs.unwrap_or(0),
            ..parameters.translate(Prompt::Ids(Vec::new()), &service.info().limits)?
        };
        let requests = prompts.into_iter().map(|prompt| Request { prompt, ..request.clone() }).collect();
        Ok(Self { requests, shape, streams, usage_events })
    }
}

impl Shape {
    /// The whole answer.
    fn completion(&self, head: Head, answers: Vec<Answer>) -> Completion {
        let usage = self.usage(Usage::of_answers(&answers));
        let mut choices = Vec::new();
        for answer in answers {
            for completion in answer.completions.into_iter().take(self.n) {
                let mut offsets = None;
                let mut choice = self.beginning(choices.len(), &mut offsets, || answer.prompt.clone());
                if !self.prompt_alone {
                    choice.text += &completion.text;
                    for event in &completion.tokens {
                        self.add_token(event, &mut offsets, &mut choice);
                    }
                }
                choice.finish_reason = Some(finish_reason(completion.finish));
                choices.push(choice);
            }
        }
        Completion { head, body: CompletionBody { choices, usage: Some(Some(usage)) } }
    }

    /// A continuation before its first token: with the prompt, as far as that is wanted.
    fn beginning(
        &self,
        index: usize,
        offsets: &mut Option<Offsets>,
        prompt: impl FnOnce() -> Vec<PromptToken>,
    ) -> CompletionChoice {
        let (offsets, mut choice) = (offsets.insert(Offsets::default()), self.piece(index));
        let known = self.texts[index / self.n].clone();
        let is_read = self.ids || self.echo && (known.is_none() || self.logprobs);
        let prompt = if is_read { prompt() } else { Vec::new() };
        let ids: Vec<u32> = prompt.iter().map(|token| token.id).collect();
        if self.echo {
            if let Some(logprobs) = &mut choice.logprobs {
                offsets.prompt(&self.spelling, &prompt, logprobs);
            }
            choice.text = known.unwrap_or_else(|| self.spelling.tokenizer.decode(&ids, false));
        }
        choice.prompt_token_ids = self.ids.then_some(ids);
        choice
    }

    /// A piece of continuation `index` that has no token yet.
    fn piece(&self, index: usize) -> CompletionChoice {
        CompletionChoice {
            index,
            text: String::new(),
            logprobs: self.logprobs.then(CompletionLogprobs::default),
            finish_reason: None,
            token_ids: self.ids.then(Vec::new),
            prompt_token_ids: None,
        }
    }

    fn add_token(&self, event: &TokenEvent, offsets: &mut Option<Offsets>, choice: &mut CompletionChoice) {
        if let (Some(offsets), Some(logprobs)) = (offsets, &mut choice.logprobs) {
            offsets.token(&self.spelling, event, logprobs);
        }
        if let Some(ids) = &mut choice.token_ids {
            ids.push(event.token.id);
        }
    }

    fn usage(&self, usage: Usage) -> Usage {
        if self.prompt_alone { usage.without_completion() } else { usage }
    }
}

/// One event a token.
struct CompletionEvents {
    head: JsonHead,
    shape: Shape,
    usage_events: UsageEvents,
    /// Of each continuation, once it has begun.
    offsets: Vec<Option<Offsets>>,
}

impl CompletionEvents {
    fn usage(&self, stream: &TokenStream) -> Usage {
        self.shape.usage(Usage::of_stream(stream))
    }
}

impl Events for CompletionEvents {
    fn token(&mut self, stream: &mut TokenStream, event: TokenEvent, out: &mut EventBuffer) {
        let (index, shape) = (event.index, &self.shape);
        let offsets = &mut self.offsets[index];
        let mut choice = match offsets {
            Some(_) => shape.piece(index),
            None => shape.beginning(index, offsets, || stream.prompt(index)),
        };
        if !shape.prompt_alone {
            choice.text += stream.take_text(index);
            shape.add_token(&event, offsets, &mut choice);
        }
        choice.finish_reason = event.finish.map(finish_reason);
        let usage = self.usage_events.so_far(|| self.usage(stream));
        out.data_after(&self.head, &CompletionBody { choices: vec![choice], usage });
    }

    fn end(&mut self, stream: &mut TokenStream, out: &mut EventBuffer) {
        if self.usage_events != UsageEvents::None {
            let usage = Some(Some(self.usage(stream)));
            out.data_after(&self.head, &CompletionBody { choices: Vec::new(), usage });
        }
        out.raw(super::DONE);
    }

    fn error(&mut self, error: &Error, out: &mut EventBuffer) {
        out.error(&Failure::new(error, Form::Completion).body);
    }
}
