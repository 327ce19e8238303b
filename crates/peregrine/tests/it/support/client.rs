//! gRPC clients.

use super::within;
use std::net::SocketAddr;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

/// A connection to a server's gRPC API. Every wait is bounded.
#[derive(Clone)]
pub struct Client {
    /// The connection.
    pub channel: Channel,
}

impl Client {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self { channel: within("a connection", endpoint.connect()).await.expect("gRPC listens") }
    }

    /// Connects, as a client that takes only some kilobytes that nobody reads.
    pub async fn narrow(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let endpoint = endpoint.initial_stream_window_size(8 << 10);
        Self { channel: within("a connection", endpoint.connect()).await.expect("gRPC listens") }
    }

    /// The stub of the generation service.
    pub fn generation(&self) -> GenerationClient<Channel> {
        GenerationClient::new(self.channel.clone())
    }

    /// The stub of the health service.
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// `Generate`.
    pub async fn try_generate(&self, request: pb::GenerateRequest) -> Result<pb::GenerateResponse, Status> {
        let mut stub = self.generation();
        within("an answer", stub.generate(request)).await.map(tonic::Response::into_inner)
    }

    /// `Generate`, which must succeed.
    pub async fn generate(&self, request: pb::GenerateRequest) -> pb::GenerateResponse {
        self.try_generate(request).await.expect("an answer")
    }

    /// `GenerateStream`, begun.
    pub async fn try_stream(
        &self,
        request: impl tonic::IntoRequest<pb::GenerateRequest>,
    ) -> Result<Streaming<pb::GenerateStreamResponse>, Status> {
        let mut stub = self.generation();
        within("a stream", stub.generate_stream(request)).await.map(tonic::Response::into_inner)
    }

    /// `GenerateStream`, which must begin.
    pub async fn stream(&self, request: pb::GenerateRequest) -> Streaming<pb::GenerateStreamResponse> {
        self.try_stream(request).await.expect("a stream")
    }

    /// `Tokenize`, which must succeed.
    pub async fn tokenize(&self, text: &str) -> Vec<pb::TokenizedToken> {
        let mut stub = self.generation();
        let call = stub.tokenize(pb::TokenizeRequest { inputs: text.to_owned() });
        within("an answer", call).await.expect("an answer").into_inner().tokens
    }
}

/// A request with these parameters.
pub fn request(inputs: &str, parameters: pb::Parameters) -> pb::GenerateRequest {
    pb::GenerateRequest { inputs: inputs.to_owned(), parameters: Some(parameters), ..Default::default() }
}

/// A greedy request for exactly so many tokens, with details.
pub fn greedy(inputs: &str, tokens: u32) -> pb::GenerateRequest {
    let parameters = pb::Parameters {
        max_new_tokens: Some(tokens),
        ignore_eos: Some(true),
        details: Some(true),
        ..Default::default()
    };
    request(inputs, parameters)
}

/// The tokens' ids.
pub fn ids(tokens: &[pb::Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// The text of the tokens that are text.
pub fn text_of(tokens: &[pb::Token]) -> String {
    tokens.iter().filter(|token| !token.special).map(|token| &*token.text).collect()
}

/// The next message of a stream, which must come.
pub async fn next_message(stream: &mut Streaming<pb::GenerateStreamResponse>) -> pb::GenerateStreamResponse {
    within("a message", stream.message()).await.expect("no error").expect("not the end")
}
