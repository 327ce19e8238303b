//! The layer around all routes that keeps a record of each request.

use super::record::Head;
use super::{RequestRecord, Telemetry};
use crate::connection::Peer;
use crate::http::RequestId;
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use std::collections::HashSet;
use std::sync::Arc;
use tonic::{Code, Status};

/// Paths and the dialects that they begin. Others are [`TGI`]'s.
const DIALECTS: [(&str, &str); 10] = [
    ("/v1/", "openai"),
    ("/invocations", "sagemaker"),
    ("/ping", "sagemaker"),
    ("/endpoints/", "sagemaker"),
    ("/metrics", "http"),
    ("/livez", "http"),
    ("/readyz", "http"),
    ("/docs", "http"),
    ("/openapi.json", "http"),
    ("/api-doc", "http"),
];
const TGI: &str = "tgi";
const GRPC: &str = "grpc";

/// `routes`, each request of which is told of: with its id in the answer, by metrics, and by a line of the log. Those of gRPC have
/// these `methods`.
pub(crate) fn observed(routes: Router, telemetry: Telemetry, methods: Option<Arc<HashSet<String>>>) -> Router {
    let observe = move |mut request: Request, next: Next| {
        let (telemetry, methods) = (telemetry.clone(), methods.clone());
        async move {
            let id = RequestId::assign(&mut request);
            let record = RequestRecord::of(&telemetry, head(&request, &id, methods.as_deref()), request.headers());
            let response = record.scope(next.run(request)).await;
            record.answered(status(&response, methods.is_some()), response.extensions().get().cloned());
            id.tell(response)
        }
    };
    routes.layer(from_fn(observe))
}

fn head(request: &Request, id: &RequestId, methods: Option<&HashSet<String>>) -> Head {
    let extensions = request.extensions();
    let path = match methods {
        // tonic has one route for all methods of a service, also for those that there are not.
        Some(methods) => methods.get(request.uri().path()).map(String::as_str),
        None => extensions.get::<MatchedPath>().map(MatchedPath::as_str),
    };
    let path = path.unwrap_or("(unknown)");
    let (dialect, route) = match methods {
        Some(_) => (GRPC, path.to_owned()),
        None => {
            let dialect = DIALECTS.iter().find(|(prefix, _)| path.starts_with(prefix));
            (dialect.map_or(TGI, |(_, dialect)| dialect), format!("{} {path}", request.method()))
        }
    };
    let address = extensions.get::<Peer>().map_or_else(String::new, |peer| peer.0.to_string());
    Head { id: id.to_string(), dialect, route, address }
}

/// The code of an answer. A stream of gRPC has its code at its end; until then it is OK.
fn status(response: &Response, is_grpc: bool) -> String {
    if !is_grpc {
        return response.status().as_u16().to_string();
    }
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    format!("{code:?}")
}
