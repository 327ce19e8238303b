//! gRPC server reflection: what there is to call, for clients that have no file of the protocol.
//!
//! Of tonic-reflection only the types are used: its service ends the call where something is unknown. The protocol says so in a
//! message, and goes on.

use axum::extract::Request as HttpRequest;
use axum::http::Uri;
use axum::routing::post;
use futures_util::stream::{Stream, StreamExt};
use prost_reflect::{DescriptorError, DescriptorPool, FileDescriptor, MethodDescriptor};
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{v1 as pb, v1alpha};

use pb::server_reflection_request::MessageRequest;
use pb::server_reflection_response::MessageResponse;
use pb::server_reflection_server::{ServerReflection, ServerReflectionServer};

/// The only method, under its name of today and the one that older clients know. Both have the same messages.
const PATH: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const OLDER_PATH: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// Adds reflection to `routes`. It lists `services`, and knows whatever is described in `descriptors`, which are encoded sets of files.
///
/// # Errors
///
/// [`DescriptorError`] if the descriptors are none, or contradict each other.
pub(crate) fn add(
    routes: Routes,
    services: &'static [&'static str],
    descriptors: &[&[u8]],
) -> Result<Routes, DescriptorError> {
    let files = files(descriptors)?;
    let described = Described { services, symbols: symbols(&files), files };
    let server = ServerReflectionServer::new(Reflection(Arc::new(described)));
    let older = server.clone();
    let older = post(move |mut request: HttpRequest| {
        let mut server = older.clone();
        *request.uri_mut() = Uri::from_static(PATH);
        async move { server.call(request).await }
    });
    Ok(routes.add_service(server).into_axum_router().route(OLDER_PATH, older).into())
}

/// The paths of all methods that `descriptors` and reflection have.
///
/// # Errors
///
/// As [`add`].
pub(crate) fn methods(descriptors: &[&[u8]]) -> Result<HashSet<String>, DescriptorError> {
    let files = files(descriptors)?;
    let methods = files.services().flat_map(|service| {
        let path = |method: MethodDescriptor| format!("/{}/{}", service.full_name(), method.name());
        service.methods().map(path).collect::<Vec<_>>()
    });
    Ok(methods.collect())
}

fn files(descriptors: &[&[u8]]) -> Result<DescriptorPool, DescriptorError> {
    let mut files = DescriptorPool::new();
    for set in descriptors.iter().chain(&[pb::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET]) {
        files.decode_file_descriptor_set(*set)?;
    }
    Ok(files)
}

/// The service.
struct Reflection(Arc<Described>);

/// What there is to tell.
struct Described {
    services: &'static [&'static str],
    files: DescriptorPool,
    /// Where each symbol is declared, by its full name.
    symbols: HashMap<String, FileDescriptor>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::ServerReflectionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers;

    async fn server_reflection_info(
        &self,
        requests: Request<Streaming<pb::ServerReflectionRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let described = self.0.clone();
        let answers = requests.into_inner().map(move |request| request.map(|request| described.answer(request)));
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Described {
    fn answer(&self, request: pb::ServerReflectionRequest) -> pb::ServerReflectionResponse {
        let answer = self.find(request.message_request.as_ref()).unwrap_or_else(|status| {
            let (error_code, error_message) = (status.code() as i32, status.message().to_owned());
            MessageResponse::ErrorResponse(pb::ErrorResponse { error_code, error_message })
        });
        pb::ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(answer),
        }
    }

    fn find(&self, asked: Option<&MessageRequest>) -> Result<MessageResponse, Status> {
        match asked {
            None => Err(Status::new(Code::InvalidArgument, "`message_request` is missing")),
            Some(MessageRequest::ListServices(_)) => Ok(self.services()),
            Some(MessageRequest::FileByFilename(name)) => {
                found(self.files.get_file_by_name(name).as_ref(), "file", name)
            }
            Some(MessageRequest::FileContainingSymbol(name)) => found(self.symbols.get(name), "symbol", name),
            Some(MessageRequest::FileContainingExtension(asked)) => {
                let pb::ExtensionRequest { containing_type, extension_number } = asked;
                let message = self.files.get_message_by_name(containing_type);
                let number = u32::try_from(*extension_number).ok();
                let extension = message.zip(number).and_then(|(message, number)| message.get_extension(number));
                let file = extension.map(|extension| extension.parent_file());
                found(file.as_ref(), "extension", &format!("{containing_type}: {extension_number}"))
            }
            Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
                let message = self.files.get_message_by_name(name).ok_or_else(|| unknown("message", name))?;
                let numbers = message.extensions().map(|extension| extension.number().cast_signed());
                Ok(MessageResponse::AllExtensionNumbersResponse(pb::ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: numbers.collect(),
                }))
            }
        }
    }

    fn services(&self) -> MessageResponse {
        let services = self.services.iter().map(|&name| pb::ServiceResponse { name: name.to_owned() });
        MessageResponse::ListServicesResponse(pb::ListServiceResponse { service: services.collect() })
    }
}

/// Where everything with a name is declared.
fn symbols(files: &DescriptorPool) -> HashMap<String, FileDescriptor> {
    let mut symbols = HashMap::new();
    let mut add = |name: &str, file: &FileDescriptor| {
        symbols.insert(name.to_owned(), file.clone());
    };
    for service in files.services() {
        let file = service.parent_file();
        add(service.full_name(), &file);
        service.methods().for_each(|method| add(method.full_name(), &file));
    }
    for message in files.all_messages() {
        let file = message.parent_file();
        add(message.full_name(), &file);
        message.fields().for_each(|field| add(field.full_name(), &file));
        message.oneofs().for_each(|oneof| add(oneof.full_name(), &file));
    }
    for enumeration in files.all_enums() {
        let file = enumeration.parent_file();
        add(enumeration.full_name(), &file);
        enumeration.values().for_each(|value| add(value.full_name(), &file));
    }
    files.all_extensions().for_each(|extension| add(extension.full_name(), &extension.parent_file()));
    symbols
}

/// The file alone: clients ask for those that it imports by their names.
fn found(file: Option<&FileDescriptor>, kind: &str, name: &str) -> Result<MessageResponse, Status> {
    let file = file.ok_or_else(|| unknown(kind, name))?;
    Ok(MessageResponse::FileDescriptorResponse(pb::FileDescriptorResponse {
        file_descriptor_proto: vec![file.encode_to_vec()],
    }))
}

fn unknown(kind: &str, name: &str) -> Status {
    Status::new(Code::NotFound, format!("there is no {kind} {name:?}"))
}
