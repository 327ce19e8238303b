//! `peregrine.v1.Generation`.

use super::error::shortened;
use super::record::{Counts, Seen};
use super::{Record, ServerInfo, TargetError, TargetOptions, base_url, read_ca};
use crate::dataset::{Prompt, Request, Vocabulary};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

/// A whole answer with the details of all its tokens stays below this.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

#[derive(Clone)]
pub(super) struct Grpc {
    /// One for each connection.
    clients: Vec<GenerationClient<Channel>>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Grpc {
    pub(super) async fn connect(options: &TargetOptions, connections: usize) -> Result<Self, TargetError> {
        let address = &*options.address;
        let bearer = |key: &String| format!("Bearer {key}").try_into().map_err(|_| TargetError::ApiKey);
        let authorization = options.api_key.as_ref().map(bearer).transpose()?;
        let endpoint = wire::endpoint(base_url(address)?, read_ca(options)?.as_deref())
            .map_err(|error| TargetError::Address { address: address.to_owned(), reason: error.to_string() })?
            .tcp_nodelay(true);
        let mut clients = Vec::new();
        for _ in 0..connections.max(1) {
            let refused = |error: tonic::transport::Error| TargetError::connect(address, &error);
            let channel = endpoint.connect().await.map_err(refused)?;
            clients.push(GenerationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX));
        }
        Ok(Self { clients, authorization })
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    pub(super) async fn info(&self) -> Result<ServerInfo, TargetError> {
        let info = self.clients[0].clone().get_info(self.request(pb::GetInfoRequest {})).await?.into_inner();
        let software = format!(
            "peregrine {}, {}, tensor parallel {}, {}",
            info.version, info.backend, info.tensor_parallel, info.model_dtype
        );
        Ok(ServerInfo { model_id: info.model_id, software })
    }

    pub(super) async fn vocabulary(&self) -> Result<Vocabulary, TargetError> {
        let request = self.request(pb::TokenizeRequest { inputs: Vocabulary::text() });
        let tokens = self.clients[0].clone().tokenize(request).await?.into_inner().tokens;
        let mut ids: Vec<u32> = tokens.into_iter().map(|token| token.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() < 2 {
            return Err(TargetError::Unexpected(format!("a text of hundreds of words has {} tokens", ids.len())));
        }
        Ok(Vocabulary::Ids(ids))
    }

    pub(super) async fn ask(
        &self,
        index: usize,
        request: &Request,
        stream: bool,
        record: &mut Record,
    ) -> Result<(), TargetError> {
        let mut client = self.clients[index % self.clients.len()].clone();
        let message = self.request(to_pb(request));
        if !stream {
            let response = client.generate(message).await?.into_inner();
            let details = response.details.ok_or_else(|| TargetError::incomplete("`details`"))?;
            record.ids = details.tokens.iter().map(|token| token.id).collect();
            note(&details, record);
            return Ok(());
        }
        let mut answer = client.generate_stream(message).await?.into_inner();
        let is_cancelled = |record: &Record| request.cancel_after.is_some_and(|tokens| record.generated() >= tokens);
        let mut complete = false;
        // Dropping the stream cancels the call.
        while !is_cancelled(record) {
            let Some(message) = answer.message().await? else {
                let missing = "the last message, with `generated_text`,";
                return if complete { Ok(()) } else { Err(TargetError::incomplete(missing)) };
            };
            if let Some(first) = message.tokens.first() {
                record.arrived(message.tokens.len(), Seen::Id(first.id));
            }
            record.ids.extend(message.tokens.iter().map(|token| token.id));
            complete |= message.generated_text.is_some();
            if let Some(details) = &message.details {
                note(details, record);
            }
        }
        Ok(())
    }
}

fn note(details: &pb::Details, record: &mut Record) {
    record.note(Counts {
        input_tokens: Some(details.prompt_tokens),
        cached_tokens: Some(details.cached_tokens),
        output_tokens: Some(details.generated_tokens),
    });
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
        Self::Status { status: code_name(status.code()), message: shortened(status.message()) }
    }
}

/// As gRPC's specification writes it: `INVALID_ARGUMENT`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_in_the_specification() {
        let names = [(Code::InvalidArgument, "INVALID_ARGUMENT"), (Code::Ok, "OK"), (Code::Unavailable, "UNAVAILABLE")];
        for (code, name) in names {
            assert_eq!(code_name(code), name);
        }
    }
}
