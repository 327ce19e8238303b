//! Answers of `peregrine.v1.Generation`.

use crate::{options, request};
use bench::{Dialect, Target, TargetOptions};
use std::pin::Pin;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{self as stream, Stream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use wire::generation as pb;
use wire::generation::generation_server::{Generation, GenerationServer};

/// A service that answers three tokens, but without its last message where the prompt says so.
struct StandIn;

fn details() -> pb::Details {
    pb::Details { generated_tokens: 3, prompt_tokens: 2, ..pb::Details::default() }
}

#[tonic::async_trait]
impl Generation for StandIn {
    type GenerateStreamStream = Pin<Box<dyn Stream<Item = Result<pb::GenerateStreamResponse, Status>> + Send>>;
    type ChatStreamStream = Self::GenerateStreamStream;

    async fn generate(&self, request: Request<pb::GenerateRequest>) -> Result<Response<pb::GenerateResponse>, Status> {
        let details = (request.get_ref().inputs != "cut").then(details);
        Ok(Response::new(pb::GenerateResponse { details, ..pb::GenerateResponse::default() }))
    }

    async fn generate_stream(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        let token = |id| pb::Token { id, ..pb::Token::default() };
        let first = pb::GenerateStreamResponse { tokens: vec![token(5), token(6)], ..Default::default() };
        let (generated_text, details) = (Some("a b c".to_owned()), Some(details()));
        let last = pb::GenerateStreamResponse { tokens: vec![token(7)], generated_text, details, ..Default::default() };
        let messages = match &*request.get_ref().inputs {
            "cut" => vec![Ok(first)],
            "empty" => Vec::new(),
            "bad" => vec![Ok(first), Err(Status::unavailable("rank 0 has died"))],
            _ => vec![Ok(first), Ok(last)],
        };
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn chat(&self, _: Request<pb::ChatRequest>) -> Result<Response<pb::GenerateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn chat_stream(&self, _: Request<pb::ChatRequest>) -> Result<Response<Self::ChatStreamStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn tokenize(&self, _: Request<pb::TokenizeRequest>) -> Result<Response<pb::TokenizeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn detokenize(&self, _: Request<pb::DetokenizeRequest>) -> Result<Response<pb::DetokenizeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_info(&self, _: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

async fn target(stream: bool) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let router = Server::builder().add_service(GenerationServer::new(StandIn));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let options = TargetOptions { stream, ..options(address, Dialect::Grpc) };
    Target::connect(&options, 1).await.expect("it listens")
}

#[tokio::test]
async fn a_stream_ends_with_its_last_message() {
    let target = target(true).await;
    let (record, result) = target.ask(0, &request("a prompt")).await;
    result.expect("answered");
    assert_eq!((record.ids.clone(), record.arrivals.len()), (vec![5, 6, 7], 2));
    assert_eq!((record.counts.input_tokens, record.generated()), (Some(2), 3));
    let incomplete = "incomplete answer: the last message, with `generated_text`, is missing";
    for (prompt, tokens, expected) in
        [("cut", 2, incomplete), ("empty", 0, incomplete), ("bad", 2, "UNAVAILABLE: rank 0 has died")]
    {
        let (record, result) = target.ask(0, &request(prompt)).await;
        assert_eq!(result.expect_err("broken off").to_string(), expected);
        assert_eq!(record.ids.len(), tokens, "{prompt}");
    }
    // A client that cancels does not wait for the last message.
    let cancelled = bench::Request { cancel_after: Some(2), ..request("cut") };
    target.ask(0, &cancelled).await.1.expect("what was wanted came");
}

#[tokio::test]
async fn a_whole_answer_has_its_details() {
    let target = target(false).await;
    let (record, result) = target.ask(0, &request("a prompt")).await;
    result.expect("answered");
    assert_eq!(record.generated(), 3);
    let error = target.ask(0, &request("cut")).await.1.expect_err("no details").to_string();
    assert_eq!(error, "incomplete answer: `details` is missing");
}
