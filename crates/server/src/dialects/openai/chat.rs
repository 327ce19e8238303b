//! `POST /v1/chat/completions`.

use super::error::{Failure, Form};
use super::logprobs::{ChatLogprobs, ChatTokenLogprob, Spelling};
use super::request::{Parameters, read};
use super::response::{
    ChatChoice, ChatChunkBody, ChatChunkChoice, ChatCompletion, ChatDelta, ChatMessage, Head, Usage, UsageEvents,
    finish_reason,
};
use super::unsupported;
use crate::http::{EventBuffer, Events, JsonHead, Reply, RequestId, Shared, event_stream};
use crate::{Error, Service, TokenStream};
use api::{Answer, Conversation, Prompt, PromptToken, Request, TokenEvent};
use axum::Json;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value};

const ROLE: &str = "assistant";

/// What chats have beside [`Parameters`].
#[derive(Clone, Debug, PartialEq, Deserialize, utoipa::ToSchema)]
pub struct ChatRequest {
    /// The conversation, the oldest message first. Templates know more of its objects than is said here.
    #[schema(value_type = Vec<Object>)]
    pub messages: Vec<Value>,
    /// The most tokens to generate; as many as there is room for.
    pub max_completion_tokens: Option<u32>,
    /// Its older name.
    pub max_tokens: Option<u32>,
    /// Answer with log-probabilities; no.
    pub logprobs: Option<bool>,
    /// And with those of so many of the most probable tokens in each place; 0.
    pub top_logprobs: Option<u32>,
    /// What the template shows the model as tools; none. Its calls come as text.
    pub tools: Option<Vec<Value>>,
    /// `none` or `auto`.
    pub tool_choice: Option<Value>,
    /// What the template shows the model as documents; none. vLLM's.
    pub documents: Option<Vec<Value>>,
    /// The prompt ends with the beginning of the model's message; unless `continue_final_message`. vLLM's.
    pub add_generation_prompt: Option<bool>,
    /// The model goes on with the last message; no. vLLM's.
    pub continue_final_message: Option<bool>,
    /// The name of one of the model's templates; its default one.
    pub chat_template: Option<String>,
    /// Further arguments of the template; none. vLLM's.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Not served; false.
    pub echo: Option<bool>,
}

/// A request as it is run, and how it is answered.
struct Call {
    request: Request,
    shape: Shape,
    streams: bool,
    usage_events: UsageEvents,
}

/// What an answer is to hold.
struct Shape {
    logprobs: bool,
    /// The ids of tokens.
    ids: bool,
    spelling: Spelling,
}

/// Answers the request in `body`, whose id is `id`.
pub(super) async fn answer(shared: &Shared, id: &RequestId, body: &[u8]) -> Result<Reply, Failure> {
    let Shared { service, stall_limit, .. } = shared;
    let call = Call::read(body, service).inspect_err(|_| service.count_rejection())?;
    let failed = |error: Error| Failure::new(&error, Form::Chat);
    let head = |object| Head::new(format!("chatcmpl-{id}"), object, service);
    if !call.streams {
        let answer = service.generate(call.request).await.map_err(failed)?;
        return Ok(Reply::Whole(Json(call.shape.completion(head("chat.completion"), answer)).into_response()));
    }
    let mut tokens = service.start(call.request).await.map_err(failed)?;
    tokens.end_without_reader(None, Some(*stall_limit));
    let has_begun = vec![false; tokens.continuations()];
    let head = JsonHead::new(&head("chat.completion.chunk"));
    let events = ChatEvents { head, shape: call.shape, usage_events: call.usage_events, has_begun };
    Ok(Reply::Stream(event_stream(tokens, events).await.map_err(failed)?))
}

impl Call {
    fn read(body: &[u8], service: &Service) -> Result<Self, Failure> {
        unsupported::check(body)?;
        let (parameters, chat): (Parameters, ChatRequest) = (read(body)?, read(body)?);
        check(&chat)?;
        let (streams, usage_events) = (parameters.streams(), parameters.usage_events()?);
        let shape = Shape {
            logprobs: chat.logprobs.unwrap_or(false),
            ids: parameters.return_token_ids.unwrap_or(false),
            spelling: parameters.spelling(service.tokenizer()),
        };
        let (max_tokens, top_tokens) = (chat.max_completion_tokens.or(chat.max_tokens), chat.top_logprobs.unwrap_or(0));
        let prompt = Prompt::Conversation(Box::new(conversation(chat)));
        let translated = parameters.translate(prompt, &service.info().limits)?;
        let request = Request { max_tokens, top_tokens, ..translated };
        Ok(Self { request, shape, streams, usage_events })
    }
}

/// What does not go together, or does not exist here.
fn check(chat: &ChatRequest) -> Result<(), Failure> {
    if chat.echo == Some(true) {
        return Err(Failure::unsupported("echo", "an answer has the model's message alone"));
    }
    if chat.top_logprobs.is_some_and(|top| top > 0) && chat.logprobs != Some(true) {
        let message = "`top_logprobs` needs `logprobs` to be true".to_owned();
        return Err(Failure::invalid("top_logprobs".to_owned(), Some("invalid_value"), message));
    }
    match &chat.tool_choice {
        None | Some(Value::Null) => Ok(()),
        Some(choice) if choice == "none" || choice == "auto" => Ok(()),
        Some(_) => Err(Failure::unsupported("tool_choice", "it must be none or auto, as no call can be forced")),
    }
}

/// What is asked to be continued.
pub(crate) fn conversation(chat: ChatRequest) -> Conversation {
    let continue_final_message = chat.continue_final_message.unwrap_or(false);
    Conversation {
        messages: chat.messages,
        // A template may ask whether there are any at all.
        tools: chat.tools.filter(|tools| !tools.is_empty()),
        documents: chat.documents.filter(|documents| !documents.is_empty()),
        template: chat.chat_template,
        add_generation_prompt: chat.add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs: chat.chat_template_kwargs.unwrap_or_default(),
        ..Conversation::default()
    }
}

impl Shape {
    /// The whole answer.
    fn completion(&self, head: Head, answer: Answer) -> ChatCompletion {
        let usage = Usage::of_answers(std::slice::from_ref(&answer));
        let prompt_token_ids = self.ids.then(|| ids(&answer.prompt));
        let choices = answer.completions.into_iter().enumerate().map(|(index, completion)| ChatChoice {
            index,
            message: ChatMessage { role: ROLE, content: completion.text, refusal: None },
            logprobs: self.logprobs(&completion.tokens),
            token_ids: self.token_ids(&completion.tokens),
            finish_reason: finish_reason(completion.finish),
        });
        ChatCompletion { head, choices: choices.collect(), usage, prompt_token_ids }
    }

    fn token_ids(&self, tokens: &[TokenEvent]) -> Option<Vec<u32>> {
        self.ids.then(|| tokens.iter().map(|event| event.token.id).collect())
    }

    fn logprobs(&self, tokens: &[TokenEvent]) -> Option<ChatLogprobs> {
        let content = || tokens.iter().map(|event| ChatTokenLogprob::new(&self.spelling, event)).collect();
        self.logprobs.then(|| ChatLogprobs { content: content(), refusal: None })
    }
}

/// An event for the beginning of each message, and one a token.
struct ChatEvents {
    head: JsonHead,
    shape: Shape,
    usage_events: UsageEvents,
    /// Each message.
    has_begun: Vec<bool>,
}

fn ids(prompt: &[PromptToken]) -> Vec<u32> {
    prompt.iter().map(|token| token.id).collect()
}

impl ChatEvents {
    fn chunk(choices: Vec<ChatChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunkBody {
        ChatChunkBody { choices, usage, prompt_token_ids: None }
    }

    /// The event before the first token of message `index`; that of the first message of all has what is known of the prompt.
    fn beginning(&self, index: usize, prompt_token_ids: Option<Vec<u32>>, stream: &TokenStream) -> ChatChunkBody {
        let delta = ChatDelta { role: Some(ROLE), content: String::new() };
        let choice = ChatChunkChoice { index, delta, ..ChatChunkChoice::default() };
        let usage = self.usage_events.so_far(|| Usage::of_stream(stream).before_token());
        ChatChunkBody { prompt_token_ids, ..Self::chunk(vec![choice], usage) }
    }
}

impl Events for ChatEvents {
    fn token(&mut self, stream: &mut TokenStream, event: TokenEvent, out: &mut EventBuffer) {
        let index = event.index;
        if !self.has_begun[index] {
            let is_first = self.shape.ids && self.has_begun.iter().all(|has_begun| !has_begun);
            let prompt_token_ids = is_first.then(|| ids(&stream.prompt(index)));
            out.data_after(&self.head, &self.beginning(index, prompt_token_ids, stream));
            self.has_begun[index] = true;
        }
        let usage = self.usage_events.so_far(|| Usage::of_stream(stream));
        let choice = ChatChunkChoice {
            index,
            delta: ChatDelta { role: None, content: stream.take_text(index).to_owned() },
            finish_reason: event.finish.map(finish_reason),
            token_ids: self.shape.token_ids(std::slice::from_ref(&event)),
            logprobs: self.shape.logprobs(&[event]),
        };
        out.data_after(&self.head, &Self::chunk(vec![choice], usage));
    }

    fn end(&mut self, stream: &mut TokenStream, out: &mut EventBuffer) {
        if self.usage_events != UsageEvents::None {
            out.data_after(&self.head, &Self::chunk(Vec::new(), Some(Some(Usage::of_stream(stream)))));
        }
        out.raw(super::DONE);
    }

    fn error(&mut self, error: &Error, out: &mut EventBuffer) {
        out.error(&Failure::new(error, Form::Chat).body);
    }
}
