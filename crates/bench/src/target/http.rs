//! TGI's and OpenAI's routes.

use super::{Protocol, Record, ServerInfo, TargetError};
use crate::dataset::{Prompt, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value, json};

/// The rest of an error's body is cut off.
const ERROR_CHARS_MAX: usize = 300;

#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    protocol: Protocol,
    /// The first model that the server lists, which OpenAI's requests must name.
    model: String,
}

impl Http {
    pub(super) async fn new(address: &str, protocol: Protocol) -> Result<Self, TargetError> {
        let base = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let base = base.trim_end_matches('/').to_owned();
        let mut http = Self { client, base, protocol, model: String::new() };
        let route = if protocol == Protocol::Completions { "/v1/models" } else { "/info" };
        // Whoever does not tell has some server all the same; one that is not there, has not.
        let response = http.send(Method::GET, route, None).await?;
        if response.status().is_success() {
            let said = whole(response).await?;
            let name = if protocol == Protocol::Completions { &said["data"][0]["id"] } else { &said["model_id"] };
            http.model = name.as_str().unwrap_or_default().to_owned();
        }
        Ok(http)
    }

    pub(super) fn info(&self) -> ServerInfo {
        ServerInfo { model_id: self.model.clone(), software: String::new() }
    }

    pub(super) async fn ask(&self, request: &Request, stream: bool, record: &mut Record) -> Result<(), TargetError> {
        let (route, body) = match self.protocol {
            Protocol::Completions => ("/v1/completions", completions_body(request, &self.model, stream)?),
            _ if stream => ("/generate_stream", generate_body(request)?),
            _ => ("/generate", generate_body(request)?),
        };
        let response = self.send(Method::POST, route, Some(&body)).await?;
        if !response.status().is_success() {
            let status = response.status();
            let text: String = text(response).await?.chars().take(ERROR_CHARS_MAX).collect();
            return Err(TargetError::Refused(format!("{route}: {status}: {text}")));
        }
        if !stream {
            let answer = whole(response).await?;
            note(&answer, record);
            let tokens = answer["details"]["tokens"].as_array();
            record.ids = tokens.into_iter().flatten().filter_map(id).collect();
            return Ok(());
        }
        events(response, |event| {
            if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
                return Err(TargetError::Refused(format!("{route}: {error}")));
            }
            record.ids.extend(id(&event["token"]));
            let tokens =
                !event["token"].is_null() || event["choices"][0]["text"].as_str().is_some_and(|t| !t.is_empty());
            if tokens {
                record.arrived(1);
            }
            note(event, record);
            Ok(())
        })
        .await
    }

    async fn send(&self, method: Method, route: &str, body: Option<&Value>) -> Result<Response<Incoming>, TargetError> {
        let url = format!("{}{route}", self.base);
        let invalid = |reason: String| TargetError::Address { address: self.base.clone(), reason };
        let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| invalid(error.to_string()))?;
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = hyper::Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(body)).map_err(|error| invalid(error.to_string()))?;
        self.client.request(request).await.map_err(|error| TargetError::connect(&self.base, &error))
    }
}

fn id(token: &Value) -> Option<u32> {
    u32::try_from(token["id"].as_u64()?).ok()
}

/// What the server counted itself, in TGI's details or OpenAI's usage.
fn note(answer: &Value, record: &mut Record) {
    let (details, usage) = (&answer["details"], &answer["usage"]);
    let count = |values: [&Value; 3]| values.into_iter().find_map(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    record.input_tokens =
        count([&details["prompt_tokens"], &details["input_length"], &usage["prompt_tokens"]]).or(record.input_tokens);
    record.output_tokens =
        count([&details["generated_tokens"], &usage["completion_tokens"], &Value::Null]).or(record.output_tokens);
    let cached = &usage["prompt_tokens_details"]["cached_tokens"];
    record.cached_tokens = count([&details["cached_tokens"], cached, &Value::Null]).unwrap_or(record.cached_tokens);
}

fn text_of(request: &Request) -> Result<&str, TargetError> {
    match &request.prompt {
        Prompt::Text(text) => Ok(text),
        Prompt::Ids(_) => Err(TargetError::Unexpected("token ids cannot be sent over HTTP".to_owned())),
    }
}

/// The body of TGI's routes.
fn generate_body(request: &Request) -> Result<Value, TargetError> {
    let parameters = &request.parameters;
    let mut body = Map::new();
    body.insert("max_new_tokens".to_owned(), json!(parameters.max_new_tokens));
    body.insert("details".to_owned(), json!(true));
    let optional = [
        ("temperature", parameters.temperature.map(|x| json!(x))),
        ("top_p", parameters.top_p.map(|x| json!(x))),
        ("seed", parameters.seed.map(|x| json!(x))),
        ("stop", (!parameters.stop.is_empty()).then(|| json!(parameters.stop))),
        // Not of TGI, which ignores keys that it does not know.
        ("ignore_eos", request.ignore_eos.then_some(Value::Bool(true))),
    ];
    body.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Ok(json!({"inputs": text_of(request)?, "parameters": body}))
}

/// The body of OpenAI's route.
fn completions_body(request: &Request, model: &str, stream: bool) -> Result<Value, TargetError> {
    let parameters = &request.parameters;
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(model));
    body.insert("prompt".to_owned(), json!(text_of(request)?));
    body.insert("max_tokens".to_owned(), json!(parameters.max_new_tokens));
    // Its default is 1, where TGI's is greedy.
    body.insert("temperature".to_owned(), json!(parameters.temperature.unwrap_or(0.0)));
    body.insert("stream".to_owned(), json!(stream));
    let optional = [
        ("top_p", parameters.top_p.map(|x| json!(x))),
        ("seed", parameters.seed.map(|x| json!(x))),
        ("stop", (!parameters.stop.is_empty()).then(|| json!(parameters.stop))),
        ("ignore_eos", request.ignore_eos.then_some(Value::Bool(true))),
        ("stream_options", stream.then(|| json!({"include_usage": true}))),
    ];
    body.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Ok(Value::Object(body))
}

async fn text(response: Response<Incoming>) -> Result<String, TargetError> {
    let body = response.into_body().collect().await.map_err(|error| broken(&error))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

async fn whole(response: Response<Incoming>) -> Result<Value, TargetError> {
    let text = text(response).await?;
    serde_json::from_str(&text).map_err(|error| TargetError::Unexpected(format!("{error} in {text:?}")))
}

/// Calls `on` with the JSON of each server-sent event, as it comes.
async fn events(
    response: Response<Incoming>,
    mut on: impl FnMut(&Value) -> Result<(), TargetError>,
) -> Result<(), TargetError> {
    let mut body = response.into_body();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(data) = line.trim_end().strip_prefix("data:") else { continue };
            if data.trim() != "[DONE]" {
                let event = serde_json::from_str(data);
                on(&event.map_err(|error| TargetError::Unexpected(format!("{error} in {data:?}")))?)?;
            }
        }
    }
    Ok(())
}

fn broken(error: &hyper::Error) -> TargetError {
    TargetError::Refused(format!("the connection broke: {error}"))
}
