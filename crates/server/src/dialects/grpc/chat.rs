//! Conversations, as gRPC sends them.

use super::convert::{parameters_from_pb, priority_from_pb};
use crate::Error;
use crate::dialects::tgi::{GenerateRequest, Inputs, Limits, Shape};
use api::{Conversation, Prompt, Request};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use text::Tokenizer;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use wire::generation as pb;

/// What is asked for, and what the answer is to hold.
pub(super) fn translate(
    request: pb::ChatRequest,
    stream: bool,
    limits: &Limits,
    tokenizer: &Tokenizer,
) -> Result<(Shape, Request), Status> {
    let priority = priority_from_pb(request.priority());
    let mut parameters = parameters_from_pb(request.parameters.clone().unwrap_or_default());
    let max_new_tokens = parameters.max_new_tokens;
    // A template's prompt is nobody's text.
    parameters.return_full_text = None;
    let inputs = Inputs::Text(String::new());
    let shape = Shape::new(&inputs, &parameters, tokenizer);
    let conversation = conversation(request)?;
    let request = GenerateRequest { inputs, parameters, stream, priority };
    let translated = request.translate(stream, limits).map_err(Error::from)?;
    let mut translated =
        Request { prompt: Prompt::Conversation(Box::new(conversation)), max_tokens: max_new_tokens, ..translated };
    translated.stop.keep_string = false;
    Ok((shape, translated))
}

fn conversation(request: pb::ChatRequest) -> Result<Conversation, Status> {
    let messages = request.messages.into_iter().enumerate().map(|(index, message)| {
        let mut object: Map<String, Value> =
            json(&message.extra, || format!("messages[{index}].extra"))?.unwrap_or_default();
        object.insert("role".to_owned(), message.role.into());
        object.insert("content".to_owned(), message.content.into());
        Ok(Value::Object(object))
    });
    let messages = messages.collect::<Result<Vec<_>, Status>>()?;
    let continue_final_message = request.continue_final_message.unwrap_or(false);
    Ok(Conversation {
        messages,
        tools: json(&request.tools, || "tools".to_owned())?,
        documents: json(&request.documents, || "documents".to_owned())?,
        template: (!request.template.is_empty()).then_some(request.template),
        add_generation_prompt: request.add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs: json(&request.template_arguments, || "template_arguments".to_owned())?.unwrap_or_default(),
        ..Conversation::default()
    })
}

/// What a field has in JSON; `None` if it is empty.
fn json<T: DeserializeOwned>(text: &str, field: impl FnOnce() -> String) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|cause| not_json(&field(), &cause))
}

fn not_json(field: &str, cause: &serde_json::Error) -> Status {
    let message = format!("`{field}` is not the JSON that it should be: {cause}");
    let details = ErrorDetails::with_bad_request_violation(field, &message);
    Status::with_error_details(Code::InvalidArgument, format!("Input validation error: {message}"), details)
}
