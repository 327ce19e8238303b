//! Between the messages of the gRPC API and TGI's types: for the server, and for clients that want the latter.

use crate::dialects::tgi::{
    BestOfSequence, Details, GenerateRequest, GenerateResponse, Inputs, Parameters, PrefillToken, StreamDetails, Token,
};
use api::{FinishReason, Priority, Violation};
use serde_json::json;
use wire::generation as pb;

/// A message that says something it cannot say.
#[derive(Debug, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct UnexpectedMessage {
    field: &'static str,
    reason: String,
}

/// A request as it came over gRPC.
///
/// # Errors
///
/// [`Violation::Conflict`], if there are two prompts.
pub fn request_from_pb(request: pb::GenerateRequest) -> Result<GenerateRequest, Violation> {
    let priority = priority_from_pb(request.priority());
    Ok(GenerateRequest {
        inputs: Inputs::either(request.inputs, request.input_ids)?,
        parameters: parameters_from_pb(request.parameters.unwrap_or_default()),
        stream: false,
        priority,
    })
}

pub(crate) fn priority_from_pb(priority: pb::Priority) -> Priority {
    match priority {
        pb::Priority::Low => Priority::Low,
        pb::Priority::Unspecified | pb::Priority::Normal => Priority::Normal,
        pb::Priority::High => Priority::High,
    }
}

/// A request to be sent over gRPC.
#[must_use]
pub fn request_to_pb(request: GenerateRequest) -> pb::GenerateRequest {
    let (inputs, input_ids) = match request.inputs {
        Inputs::Text(text) => (text, Vec::new()),
        Inputs::Ids(ids) => (String::new(), ids),
    };
    let priority = match request.priority {
        Priority::Low => pb::Priority::Low,
        Priority::Normal => pb::Priority::Normal,
        Priority::High => pb::Priority::High,
    };
    let parameters = Some(parameters_to_pb(request.parameters));
    pb::GenerateRequest { inputs, input_ids, parameters, priority: priority.into() }
}

pub(crate) fn parameters_from_pb(parameters: pb::Parameters) -> Parameters {
    use pb::parameters::Grammar;
    Parameters {
        best_of: parameters.best_of.map(|n| n as usize),
        temperature: parameters.temperature,
        repetition_penalty: parameters.repetition_penalty,
        frequency_penalty: parameters.frequency_penalty,
        // More than the vocabulary can ever have is all of it.
        top_k: parameters.top_k.map(|k| i32::try_from(k).unwrap_or(i32::MAX)),
        top_p: parameters.top_p,
        typical_p: parameters.typical_p,
        do_sample: parameters.do_sample.unwrap_or(false),
        max_new_tokens: parameters.max_new_tokens,
        return_full_text: parameters.return_full_text,
        stop: parameters.stop,
        truncate: parameters.truncate.map(|n| n as usize),
        watermark: parameters.watermark.unwrap_or(false),
        details: parameters.details.unwrap_or(false),
        decoder_input_details: parameters.decoder_input_details.unwrap_or(false),
        seed: parameters.seed,
        top_n_tokens: parameters.top_n_tokens,
        grammar: parameters.grammar.map(|grammar| match grammar {
            Grammar::JsonSchema(value) => json!({"type": "json", "value": value}),
            Grammar::Regex(value) => json!({"type": "regex", "value": value}),
        }),
        ignore_eos: parameters.ignore_eos.unwrap_or(false),
        min_p: parameters.min_p,
        presence_penalty: parameters.presence_penalty,
        count_frequency_penalty: parameters.count_frequency_penalty,
        logit_bias: parameters.logit_bias.into_iter().collect(),
        min_tokens: parameters.min_tokens,
        stop_token_ids: parameters.stop_token_ids,
    }
}

fn parameters_to_pb(parameters: Parameters) -> pb::Parameters {
    // What does not fit is out of every limit, and must stay so.
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    pb::Parameters {
        do_sample: Some(parameters.do_sample),
        max_new_tokens: parameters.max_new_tokens,
        temperature: parameters.temperature,
        top_k: parameters.top_k.map(|k| u32::try_from(k).unwrap_or(0)),
        top_p: parameters.top_p,
        typical_p: parameters.typical_p,
        repetition_penalty: parameters.repetition_penalty,
        frequency_penalty: parameters.frequency_penalty,
        seed: parameters.seed,
        stop: parameters.stop,
        truncate: parameters.truncate.map(narrow),
        best_of: parameters.best_of.map(narrow),
        return_full_text: parameters.return_full_text,
        watermark: Some(parameters.watermark),
        details: Some(parameters.details),
        decoder_input_details: Some(parameters.decoder_input_details),
        top_n_tokens: parameters.top_n_tokens,
        ignore_eos: Some(parameters.ignore_eos),
        grammar: parameters.grammar.as_ref().map(grammar_to_pb),
        min_p: parameters.min_p,
        presence_penalty: parameters.presence_penalty,
        count_frequency_penalty: parameters.count_frequency_penalty,
        logit_bias: parameters.logit_bias.into_iter().collect(),
        min_tokens: parameters.min_tokens,
        stop_token_ids: parameters.stop_token_ids,
    }
}

/// What is no regex goes as a schema, so that the server, not this client, says what is wrong with it.
fn grammar_to_pb(grammar: &serde_json::Value) -> pb::parameters::Grammar {
    match (grammar["type"].as_str(), grammar["value"].as_str()) {
        (Some("regex"), Some(regex)) => pb::parameters::Grammar::Regex(regex.to_owned()),
        (Some("json"), _) => pb::parameters::Grammar::JsonSchema(grammar["value"].to_string()),
        _ => pb::parameters::Grammar::JsonSchema(grammar.to_string()),
    }
}

/// An answer to be sent over gRPC.
#[must_use]
pub fn response_to_pb(response: GenerateResponse) -> pb::GenerateResponse {
    pb::GenerateResponse { generated_text: response.generated_text, details: response.details.map(details_to_pb) }
}

/// An answer as it came over gRPC.
///
/// # Errors
///
/// [`UnexpectedMessage`], if the server is of another kind than this client knows.
pub fn response_from_pb(response: pb::GenerateResponse) -> Result<GenerateResponse, UnexpectedMessage> {
    let details = response.details.map(details_from_pb).transpose()?;
    Ok(GenerateResponse { generated_text: response.generated_text, details })
}

fn details_to_pb(details: Details) -> pb::Details {
    pb::Details {
        finish_reason: details.finish_reason.as_str().to_owned(),
        generated_tokens: details.generated_tokens,
        seed: details.seed,
        prefill: details.prefill.into_iter().map(prefill_to_pb).collect(),
        tokens: details.tokens.into_iter().map(token_to_pb).collect(),
        top_tokens: details.top_tokens.into_iter().map(top_to_pb).collect(),
        best_of_sequences: details.best_of_sequences.into_iter().flatten().map(best_of_to_pb).collect(),
        prompt_tokens: details.prompt_tokens,
        cached_tokens: details.cached_tokens,
    }
}

/// The details that end a stream, to be sent over gRPC.
#[must_use]
pub fn stream_details_to_pb(details: &StreamDetails) -> pb::Details {
    pb::Details {
        finish_reason: details.finish_reason.as_str().to_owned(),
        generated_tokens: details.generated_tokens,
        seed: details.seed,
        prompt_tokens: details.input_length,
        cached_tokens: details.cached_tokens,
        ..pb::Details::default()
    }
}

fn details_from_pb(details: pb::Details) -> Result<Details, UnexpectedMessage> {
    let best_of: Vec<_> = details.best_of_sequences.into_iter().map(best_of_from_pb).collect::<Result<_, _>>()?;
    Ok(Details {
        finish_reason: finish_from_pb(&details.finish_reason)?,
        generated_tokens: details.generated_tokens,
        seed: details.seed,
        prefill: details.prefill.into_iter().map(prefill_from_pb).collect(),
        tokens: details.tokens.into_iter().map(token_from_pb).collect::<Result<_, _>>()?,
        best_of_sequences: (!best_of.is_empty()).then_some(best_of),
        top_tokens: details.top_tokens.into_iter().map(top_from_pb).collect::<Result<_, _>>()?,
        prompt_tokens: details.prompt_tokens,
        cached_tokens: details.cached_tokens,
    })
}

fn best_of_to_pb(sequence: BestOfSequence) -> pb::BestOfSequence {
    pb::BestOfSequence {
        generated_text: sequence.generated_text,
        finish_reason: sequence.finish_reason.as_str().to_owned(),
        generated_tokens: sequence.generated_tokens,
        seed: sequence.seed,
        prefill: sequence.prefill.into_iter().map(prefill_to_pb).collect(),
        tokens: sequence.tokens.into_iter().map(token_to_pb).collect(),
        top_tokens: sequence.top_tokens.into_iter().map(top_to_pb).collect(),
    }
}

fn best_of_from_pb(sequence: pb::BestOfSequence) -> Result<BestOfSequence, UnexpectedMessage> {
    Ok(BestOfSequence {
        generated_text: sequence.generated_text,
        finish_reason: finish_from_pb(&sequence.finish_reason)?,
        generated_tokens: sequence.generated_tokens,
        seed: sequence.seed,
        prefill: sequence.prefill.into_iter().map(prefill_from_pb).collect(),
        tokens: sequence.tokens.into_iter().map(token_from_pb).collect::<Result<_, _>>()?,
        top_tokens: sequence.top_tokens.into_iter().map(top_from_pb).collect::<Result<_, _>>()?,
    })
}

fn finish_from_pb(name: &str) -> Result<FinishReason, UnexpectedMessage> {
    let reasons = [FinishReason::Length, FinishReason::EosToken, FinishReason::StopSequence];
    let unknown = || UnexpectedMessage { field: "finish_reason", reason: format!("unknown value {name:?}") };
    reasons.into_iter().find(|reason| reason.as_str() == name).ok_or_else(unknown)
}

fn prefill_to_pb(token: PrefillToken) -> pb::Token {
    let PrefillToken { id, text, logprob } = token;
    pb::Token { id, text, logprob, model_logprob: logprob, special: false }
}

fn prefill_from_pb(token: pb::Token) -> PrefillToken {
    PrefillToken { id: token.id, text: token.text, logprob: token.logprob }
}

/// A generated token to be sent over gRPC.
#[must_use]
pub fn token_to_pb(token: Token) -> pb::Token {
    let Token { id, text, logprob, special, model_logprob } = token;
    pb::Token { id, text, logprob: Some(logprob), model_logprob: Some(model_logprob), special }
}

fn token_from_pb(token: pb::Token) -> Result<Token, UnexpectedMessage> {
    let missing = || UnexpectedMessage { field: "logprob", reason: format!("token {} has none", token.id) };
    let logprob = token.logprob.ok_or_else(missing)?;
    let model_logprob = token.model_logprob.ok_or_else(missing)?;
    Ok(Token { id: token.id, text: token.text, logprob, special: token.special, model_logprob })
}

/// The alternatives to a token, to be sent over gRPC.
#[must_use]
pub fn top_to_pb(tokens: Vec<Token>) -> pb::TopTokens {
    pb::TopTokens { tokens: tokens.into_iter().map(token_to_pb).collect() }
}

fn top_from_pb(top: pb::TopTokens) -> Result<Vec<Token>, UnexpectedMessage> {
    top.tokens.into_iter().map(token_from_pb).collect()
}
