//! Text Generation Inference's dialect ("TGI", 0.9.3 and up), as JumpStart's Falcon spoke it: names, defaults, ranges, messages and
//! JSON shapes. The command line and the gRPC API have its parameters, too.

mod error;
mod headers;
mod info;
mod request;
mod response;
pub(crate) mod routes;
mod tokenize;

pub use error::{ErrorBody, ErrorKind, field_name, message};
pub(crate) use info::InfoResponse;
pub use request::{GenerateRequest, Inputs, Limits, Parameters};
pub(crate) use response::Shape;
pub use response::{BestOfSequence, Details, GenerateResponse, PrefillToken, StreamDetails, Token};
pub(crate) use tokenize::{
    ChatTokenizeResponse, DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse,
};
