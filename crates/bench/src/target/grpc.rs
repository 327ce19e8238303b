//! `peregrine.v1.Generation`.

use super::{Record, ServerInfo, TargetError};
use crate::dataset::{Alphabet, Prompt, Request};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

/// A whole answer with the details of all its tokens stays below this.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// One client for each connection.
#[derive(Clone)]
pub(super) struct Grpc(Vec<GenerationClient<Channel>>);

impl Grpc {
    pub(super) async fn connect(address: &str, connections: usize) -> Result<Self, TargetError> {
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(url)
            .map_err(|error| TargetError::Address { address: address.to_owned(), reason: error.to_string() })?
            .tcp_nodelay(true);
        let mut clients = Vec::new();
        for _ in 0..connections.max(1) {
            let refused = |error: tonic::transport::Error| TargetError::connect(address, &error);
            let channel = endpoint.connect().await.map_err(refused)?;
            clients.push(GenerationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX));
        }
        Ok(Self(clients))
    }

    pub(super) async fn info(&self) -> Result<ServerInfo, TargetError> {
        let info = self.0[0].clone().get_info(pb::GetInfoRequest {}).await?.into_inner();
        let software = format!(
            "peregrine {}, {}, tensor parallel {}, {}",
            info.version, info.backend, info.tensor_parallel, info.model_dtype
        );
        Ok(ServerInfo { model_id: info.model_id, software })
    }

    pub(super) async fn alphabet(&self) -> Result<Alphabet, TargetError> {
        let request = pb::TokenizeRequest { inputs: Alphabet::text() };
        let tokens = self.0[0].clone().tokenize(request).await?.into_inner().tokens;
        let mut ids: Vec<u32> = tokens.into_iter().map(|token| token.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() < 2 {
            return Err(TargetError::Unexpected(format!("a text of hundreds of words has {} tokens", ids.len())));
        }
        Ok(Alphabet::Ids(ids))
    }

    pub(super) async fn ask(
        &self,
        index: usize,
        request: &Request,
        stream: bool,
        record: &mut Record,
    ) -> Result<(), TargetError> {
        let mut client = self.0[index % self.0.len()].clone();
        let message = to_pb(request);
        if !stream {
            let response = client.generate(message).await?.into_inner();
            let details = response.details.unwrap_or_default();
            record.ids = details.tokens.iter().map(|token| token.id).collect();
            note(&details, record);
            return Ok(());
        }
        let mut answer = client.generate_stream(message).await?.into_inner();
        let enough = |record: &Record| request.cancel_after.is_some_and(|tokens| record.generated() >= tokens);
        // Dropped, the stream ends for the server, too.
        while !enough(record)
            && let Some(message) = answer.message().await?
        {
            record.arrived(message.tokens.len());
            record.ids.extend(message.tokens.iter().map(|token| token.id));
            if let Some(details) = &message.details {
                note(details, record);
            }
        }
        Ok(())
    }
}

fn note(details: &pb::Details, record: &mut Record) {
    record.input_tokens = Some(details.prompt_tokens);
    record.cached_tokens = details.cached_tokens;
    record.output_tokens = Some(details.generated_tokens);
}

fn to_pb(request: &Request) -> pb::GenerateRequest {
    let (inputs, input_ids) = match &request.prompt {
        Prompt::Text(text) => (text.clone(), Vec::new()),
        Prompt::Ids(ids) => (String::new(), ids.clone()),
    };
    let parameters = request.parameters.clone();
    let parameters = pb::Parameters {
        max_new_tokens: Some(parameters.max_new_tokens),
        temperature: parameters.temperature,
        top_p: parameters.top_p,
        seed: parameters.seed,
        stop: parameters.stop,
        details: Some(true),
        ignore_eos: Some(request.ignore_eos),
        ..pb::Parameters::default()
    };
    pb::GenerateRequest { inputs, input_ids, parameters: Some(parameters), priority: 0 }
}

impl From<Status> for TargetError {
    fn from(status: Status) -> Self {
        Self::Refused(format!("{:?}: {}", status.code(), status.message()))
    }
}
