//! `peregrine.v1.Generation`, with TGI's parameters, and `peregrine.v1.Admin`.

mod admin;
mod chat;
pub mod convert;
pub(crate) mod reflection;
mod status;

use super::tgi;
use super::tgi::Shape;
pub(crate) use admin::AdminApi;
use status::RETRY_PUSHBACK;

use crate::access::Gate;
use crate::incoming::{LargeBodies, check_headers};
use crate::limits::GRPC_MESSAGE_BYTES_MAX;
use crate::{Error, Service, TokenStream};
use api::Request as ApiRequest;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{Next, from_fn};
use convert::{request_from_pb, response_to_pb, stream_details_to_pb, token_to_pb, top_to_pb};
use futures_util::stream::{Stream, try_unfold};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use wire::generation as pb;
use wire::generation::generation_server::Generation;

/// The gRPC API of a [`Service`].
pub struct GrpcApi {
    pub(crate) service: Service,
    stall_limit: Option<Duration>,
}

impl GrpcApi {
    /// The API. A stream whose reader takes nothing for `stall_limit` is ended.
    #[must_use]
    pub fn new(service: Service, stall_limit: Option<Duration>) -> Self {
        Self { service, stall_limit }
    }
}

/// The messages of a stream.
type Messages = Pin<Box<dyn Stream<Item = Result<pb::GenerateStreamResponse, Status>> + Send>>;

/// What the answer is to hold, and what is asked for.
type Asked = (Shape, ApiRequest);

#[tonic::async_trait]
impl Generation for GrpcApi {
    type GenerateStreamStream = Messages;
    type ChatStreamStream = Messages;

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<pb::GenerateResponse>, Status> {
        let deadline = deadline(request.metadata());
        let asked = self.translate(request.into_inner(), false)?;
        self.whole(asked, deadline).await
    }

    async fn generate_stream(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        let deadline = deadline(request.metadata());
        let asked = self.translate(request.into_inner(), true)?;
        self.streamed(asked, deadline).await
    }

    async fn chat(&self, request: Request<pb::ChatRequest>) -> Result<Response<pb::GenerateResponse>, Status> {
        let deadline = deadline(request.metadata());
        let asked = self.translate_chat(request.into_inner(), false)?;
        self.whole(asked, deadline).await
    }

    async fn chat_stream(&self, request: Request<pb::ChatRequest>) -> Result<Response<Self::ChatStreamStream>, Status> {
        let deadline = deadline(request.metadata());
        let asked = self.translate_chat(request.into_inner(), true)?;
        self.streamed(asked, deadline).await
    }

    async fn tokenize(&self, request: Request<pb::TokenizeRequest>) -> Result<Response<pb::TokenizeResponse>, Status> {
        let deadline = deadline(request.metadata());
        let tokens = until(deadline, self.service.tokenize(request.into_inner().inputs, true)).await??;
        let narrow = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        let tokens = tokens.into_iter().map(|token| pb::TokenizedToken {
            id: token.id,
            text: token.text,
            start: narrow(token.start),
            stop: narrow(token.stop),
        });
        Ok(Response::new(pb::TokenizeResponse { tokens: tokens.collect() }))
    }

    async fn detokenize(
        &self,
        request: Request<pb::DetokenizeRequest>,
    ) -> Result<Response<pb::DetokenizeResponse>, Status> {
        let pb::DetokenizeRequest { ids, skip_special_tokens } = request.into_inner();
        let text = self.service.detokenize(&ids, skip_special_tokens)?;
        Ok(Response::new(pb::DetokenizeResponse { text }))
    }

    async fn get_info(&self, _: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        let info = self.service.info();
        let narrow = |size| u32::try_from(size).unwrap_or(u32::MAX);
        Ok(Response::new(pb::GetInfoResponse {
            model_id: info.model_id.clone(),
            model_dtype: "bfloat16".to_owned(),
            backend: info.backend.clone(),
            tensor_parallel: narrow(info.tensor_parallel),
            max_input_length: narrow(info.limits.max_input_length),
            max_total_tokens: narrow(info.limits.max_total_tokens),
            kv_tokens_total: self.service.kv_tokens() as u64,
            max_concurrent_requests: narrow(info.max_concurrent_requests),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            chat_stop: self.service.chat_stops().to_vec(),
        }))
    }
}

impl GrpcApi {
    fn translate(&self, request: pb::GenerateRequest, stream: bool) -> Result<Asked, Error> {
        let service = &self.service;
        let request = service.translated(request_from_pb(request))?;
        let shape = Shape::new(&request.inputs, &request.parameters, service.tokenizer());
        Ok((shape, service.translated(request.translate(stream, &service.info().tgi))?))
    }

    fn translate_chat(&self, request: pb::ChatRequest, stream: bool) -> Result<Asked, Status> {
        let service = &self.service;
        let asked = chat::translate(request, stream, &service.info().tgi, service.tokenizer());
        asked.inspect_err(|_| service.count_rejection())
    }

    async fn whole(
        &self,
        (shape, request): Asked,
        deadline: Option<Instant>,
    ) -> Result<Response<pb::GenerateResponse>, Status> {
        let answer = until(deadline, self.service.generate(request)).await??;
        Ok(Response::new(response_to_pb(shape.response(answer))))
    }

    async fn streamed(&self, (shape, request): Asked, deadline: Option<Instant>) -> Result<Response<Messages>, Status> {
        let mut tokens = until(deadline, self.service.start(request)).await??;
        tokens.end_without_reader(deadline, self.stall_limit);
        let messages = try_unfold((tokens, shape), move |(mut tokens, shape)| async move {
            let message = next_message(&mut tokens, &shape, deadline).await?;
            Ok(message.map(|message| (message, (tokens, shape))))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// Waits for the next token and takes all that are there by then, so that a slow reader gets fewer, larger messages. There is
/// none after the last token.
async fn next_message(
    tokens: &mut TokenStream,
    shape: &Shape,
    deadline: Option<Instant>,
) -> Result<Option<pb::GenerateStreamResponse>, Status> {
    let mut message = pb::GenerateStreamResponse::default();
    let Some(mut event) = until(deadline, tokens.next()).await?? else { return Ok(None) };
    loop {
        message.tokens.push(token_to_pb(tgi::Token::from(event.token)));
        if !event.top.is_empty() {
            message.top_tokens.push(top_to_pb(event.top.into_iter().map(tgi::Token::from).collect()));
        }
        if let Some(finish) = event.finish {
            let (text, details) = shape.ending(tokens, finish);
            message.generated_text = Some(text);
            message.details = details.as_ref().map(stream_details_to_pb);
        }
        match until(deadline, async { tokens.try_next() }).await?? {
            Some(next) => event = next,
            None => return Ok(Some(message)),
        }
    }
}

/// `routes` within limits of what a call may bring. Codes are those that gRPC has for the case, where tonic has others.
pub(crate) fn limited(routes: Routes, gate: Gate, bodies: LargeBodies) -> Router {
    let limits = move |mut request: axum::extract::Request, next: Next| {
        let (gate, bodies) = (gate.clone(), bodies.clone());
        async move {
            if let Err(error) = check_headers(request.headers()) {
                return Status::from(error).into_http();
            }
            let caller = match gate.admit(&mut request) {
                Ok(caller) => caller,
                Err(denied) => return Status::from(denied).into_http(),
            };
            let request = compressed_as_asked(request);
            // tonic looks at the message's own length first, which says more.
            let request = request.map(|body| bodies.limit(body, 2 * GRPC_MESSAGE_BYTES_MAX, Status::from));
            let mut response = next.run(request).await;
            correct_code(response.headers_mut());
            caller.tell(response)
        }
    };
    routes.into_axum_router().layer(from_fn(limits))
}

/// Answers are compressed where the request was: libraries say that they accept it whether or not their users want to wait for it.
fn compressed_as_asked(mut request: axum::extract::Request) -> axum::extract::Request {
    let headers = request.headers_mut();
    if headers.get("grpc-encoding").is_none_or(|encoding| encoding == "identity") {
        headers.remove("grpc-accept-encoding");
    }
    request
}

/// A message that is too large is OUT_OF_RANGE to tonic, and bytes that are no message are INTERNAL. The services here never answer with
/// the one, and with the other only where they ask not to be asked again.
fn correct_code(headers: &mut HeaderMap) {
    let Some(code) = headers.get(Status::GRPC_STATUS) else { return };
    let code = match Code::from_bytes(code.as_bytes()) {
        Code::OutOfRange => Code::ResourceExhausted,
        Code::Internal if !headers.contains_key(RETRY_PUSHBACK) => Code::InvalidArgument,
        _ => return,
    };
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(code as i32));
}

async fn until<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Result<T, Status> {
    let passed = || Status::deadline_exceeded("the deadline has passed");
    match deadline {
        // Whatever the future says then is only how it was ended.
        Some(deadline) if deadline <= Instant::now() => Err(passed()),
        Some(deadline) => match timeout_at(deadline, future).await {
            Ok(output) if Instant::now() < deadline => Ok(output),
            _ => Err(passed()),
        },
        None => Ok(future.await),
    }
}

/// The caller's deadline, from the `grpc-timeout` header: at most eight digits and a unit. What cannot be read counts as
/// none.
fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let timeout = match unit {
        "H" => Duration::from_secs(3600 * count),
        "M" => Duration::from_secs(60 * count),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_in_every_unit() {
        let left = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ASCII"));
            deadline(&metadata).map(|at| (at - Instant::now()).as_secs_f64().round())
        };
        assert_eq!(left("2H"), Some(7200.0));
        assert_eq!(left("3M"), Some(180.0));
        assert_eq!(left("30S"), Some(30.0));
        assert_eq!(left("30000m"), Some(30.0));
        assert_eq!(left("30000000u"), Some(30.0));
        assert_eq!(left("99999999n"), Some(0.0));
        for bad in ["", "S", "5", "5x", "-1S", "999999999S", "5é"] {
            let mut metadata = MetadataMap::new();
            if let Ok(value) = bad.parse() {
                metadata.insert("grpc-timeout", value);
            }
            assert_eq!(deadline(&metadata), None, "{bad}");
        }
    }
}
