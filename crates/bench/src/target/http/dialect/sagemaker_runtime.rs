//! SageMaker's runtime API, InvokeEndpoint and InvokeEndpointWithResponseStream: the container's answers, of which a stream comes in
//! AWS's event-stream frames. Requests are not signed.

use super::sagemaker::SageMaker;
use super::tgi::TgiAnswers;
use super::{Answers, Framing, HttpDialect};
use crate::dataset::Request;
use crate::target::{ServerInfo, TargetError};
use serde_json::Value;

pub(super) struct SageMakerRuntime;

impl HttpDialect for SageMakerRuntime {
    /// The endpoint's name, which Peregrine does not look at.
    fn model(&self, _: &ServerInfo) -> String {
        "peregrine".to_owned()
    }

    fn route(&self, endpoint: &str, stream: bool) -> String {
        let operation = if stream { "invocations-response-stream" } else { "invocations" };
        format!("/endpoints/{endpoint}/{operation}")
    }

    fn body(&self, request: &Request, endpoint: &str, stream: bool) -> Result<Value, TargetError> {
        SageMaker.body(request, endpoint, stream)
    }

    fn framing(&self) -> Framing {
        Framing::AwsFrames
    }

    fn answers(&self) -> &'static dyn Answers {
        &TgiAnswers
    }
}
