//! Server reflection: what clients learn that have no file of the protocol.

use crate::support::{Client, Server, within};
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ExtensionRequest, ServerReflectionRequest};
use tonic_reflection::pb::v1alpha;

async fn reflect(client: &Client, request: MessageRequest) -> MessageResponse {
    reflect_all(client, vec![request]).await.pop().expect("an answer")
}

/// The answers to requests of one call.
async fn reflect_all(client: &Client, requests: Vec<MessageRequest>) -> Vec<MessageResponse> {
    let mut stub = ServerReflectionClient::new(client.channel.clone());
    let request = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = tokio_stream::iter(requests.into_iter().map(request).collect::<Vec<_>>());
    let mut stream = stub.server_reflection_info(requests).await.expect("a stream").into_inner();
    let mut answers = Vec::new();
    while let Some(message) = within("an answer", stream.message()).await.expect("no error") {
        answers.push(message.message_response.expect("it says something"));
    }
    answers
}

/// What is unknown is said in a message, and the call goes on. Older clients call the same service by another name.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reflection_says_what_is_unknown() {
    let server = Server::ready::<&str>([]).await;
    let client = server.client().await;
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    let extension = ExtensionRequest { containing_type: "peregrine.v1.Token".to_owned(), extension_number: -1 };
    let unknown = vec![
        symbol("nope.X"),
        symbol("peregrine.v1.Generation.Nope"),
        MessageRequest::FileByFilename("nope.proto".to_owned()),
        MessageRequest::FileContainingExtension(extension),
        MessageRequest::AllExtensionNumbersOfType("nope.X".to_owned()),
    ];
    let known = ["peregrine.v1.Generation.GenerateStream", "peregrine.v1.Token.logprob", "grpc.health.v1.Health"];
    let known = known.map(symbol).into_iter().chain([
        MessageRequest::FileByFilename("peregrine/v1/generation.proto".to_owned()),
        MessageRequest::AllExtensionNumbersOfType("peregrine.v1.Token".to_owned()),
    ]);
    let count = unknown.len();
    let answers = reflect_all(&client, unknown.into_iter().chain(known).collect()).await;
    assert_eq!(answers.len(), 2 * count);
    for (index, answer) in answers.iter().enumerate() {
        let error = match answer {
            MessageResponse::ErrorResponse(error) => Some(error.error_code),
            _ => None,
        };
        assert_eq!(error, (index < count).then_some(Code::NotFound as i32), "{index}: {answer:?}");
    }
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(client.channel.clone());
    let message_request = v1alpha::server_reflection_request::MessageRequest::FileByFilename("nope.proto".to_owned());
    let request = v1alpha::ServerReflectionRequest { host: "h".to_owned(), message_request: Some(message_request) };
    let mut stream =
        older.server_reflection_info(tokio_stream::once(request.clone())).await.expect("a stream").into_inner();
    let answer = within("an answer", stream.message()).await.expect("no error").expect("a message");
    assert_eq!((&*answer.valid_host, answer.original_request), ("h", Some(request)));
    match answer.message_response {
        Some(v1alpha::server_reflection_response::MessageResponse::ErrorResponse(error)) => {
            assert_eq!(error.error_code, Code::NotFound as i32, "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    server.stop().await;
}

/// Whoever has no file of the protocol gets its comments and the types of errors by reflection.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reflection_has_comments_and_the_types_of_errors() {
    let server = Server::ready::<&str>([]).await;
    let client = server.client().await;
    let mut described = Vec::new();
    for symbol in ["peregrine.v1.Generation", "google.rpc.BadRequest", "google.rpc.RetryInfo"] {
        match reflect(&client, MessageRequest::FileContainingSymbol(symbol.to_owned())).await {
            MessageResponse::FileDescriptorResponse(files) => described.push(files.file_descriptor_proto.concat()),
            other => panic!("{symbol}: {other:?}"),
        }
    }
    let services = match reflect(&client, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(list) => list.service,
        other => panic!("{other:?}"),
    };
    let services: Vec<String> = services.into_iter().map(|service| service.name).collect();
    assert_eq!(services, ["peregrine.v1.Generation", "peregrine.v1.Admin", "grpc.health.v1.Health"]);
    let text = String::from_utf8_lossy(&described[0]);
    assert!(text.contains("Continues one prompt and answers when the text is complete."), "{text}");
    server.stop().await;
}
