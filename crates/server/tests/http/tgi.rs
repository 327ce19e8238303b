//! TGI's dialect, on all routes that have it.

mod errors;
mod routes;
mod whole_and_stream;

use crate::scripted::{Answer, Server};
use serde_json::{Value, json};

/// The routes that take `inputs`, and what they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /generate`.
    Generate,
    /// `POST /generate_stream`, which needs no `stream`.
    GenerateStream,
    /// `POST /`.
    Root,
    /// `POST /invocations`.
    Invocations,
    /// `POST /endpoints/NAME/invocations`.
    Endpoint,
    /// `POST /endpoints/NAME/invocations-response-stream`.
    EndpointStream,
}

impl Route {
    /// Those that answer as a whole where `stream` is not asked for.
    pub const WHOLE: [Self; 5] = [Self::Generate, Self::Root, Self::Invocations, Self::Endpoint, Self::EndpointStream];
    /// Those that stream where it is.
    pub const STREAM: [Self; 6] =
        [Self::Generate, Self::GenerateStream, Self::Root, Self::Invocations, Self::Endpoint, Self::EndpointStream];

    pub fn path(self) -> &'static str {
        match self {
            Self::Generate => "/generate",
            Self::GenerateStream => "/generate_stream",
            Self::Root => "/",
            Self::Invocations => "/invocations",
            Self::Endpoint => "/endpoints/falcon/invocations",
            Self::EndpointStream => "/endpoints/falcon/invocations-response-stream",
        }
    }

    /// Whether it is one of the runtime API.
    pub fn is_runtime(self) -> bool {
        matches!(self, Self::Endpoint | Self::EndpointStream)
    }

    pub async fn ask(self, server: &Server, body: &Value) -> Answer {
        server.post_json(self.path(), &[], &body.to_string()).await
    }

    /// What the container has answered, as text: the answer, or what its frames hold.
    pub fn text(self, answer: &Answer) -> String {
        match self {
            Self::EndpointStream if answer.status == 200 => crate::sagemaker::payloads(answer),
            _ => answer.body.clone(),
        }
    }

    /// A whole answer.
    pub fn object(self, answer: &Answer) -> Value {
        assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
        let json: Value = serde_json::from_str(&self.text(answer)).expect("JSON");
        match self {
            Self::Generate => json,
            _ => {
                assert_eq!(json.as_array().map(Vec::len), Some(1), "{self:?} answers a list: {json}");
                json[0].clone()
            }
        }
    }

    /// The events of a stream, which ends well.
    pub fn events(self, answer: &Answer) -> Vec<Value> {
        assert_eq!(answer.status, 200, "{self:?}: {answer:?}");
        let text = self.text(answer);
        let blocks = text.split_terminator("\n\n").map(|block| block.strip_prefix("data: ").expect("an event"));
        blocks.map(|data| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))).collect()
    }

    /// The status and body of the container's error. The runtime API wraps them.
    pub fn error(self, answer: &Answer) -> (u16, Value) {
        if !self.is_runtime() || answer.status == 429 || answer.status == 503 {
            return (answer.status, answer.json());
        }
        let wrapped = answer.json();
        assert_eq!((answer.status, answer.header("x-amzn-errortype")), (424, Some("ModelError")), "{answer:?}");
        let status = wrapped["OriginalStatusCode"].as_u64().expect("a status");
        let original = wrapped["OriginalMessage"].as_str().expect("a text");
        assert!(wrapped["Message"].is_string(), "{wrapped}");
        (status as u16, serde_json::from_str(original).expect("JSON"))
    }
}

/// A request with these parameters.
pub fn body(parameters: &Value) -> Value {
    json!({"inputs": "Once upon a time", "parameters": parameters})
}
