//! `GET /info`: what runs, under the names that clients of any of TGI's versions look for.

use crate::{Service, State};
use serde::Serialize;

/// The order of the fields is that of their JSON.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct InfoResponse {
    model_id: String,
    /// Commits of the model's repository are not known of a folder.
    model_sha: Option<&'static str>,
    model_dtype: &'static str,
    model_device_type: &'static str,
    /// Known of models of a hub alone.
    model_pipeline_tag: Option<&'static str>,
    max_concurrent_requests: usize,
    max_best_of: usize,
    max_stop_sequences: usize,
    max_top_n_tokens: u32,
    /// Up to TGI 1.4; then the next.
    max_input_length: usize,
    max_input_tokens: usize,
    max_total_tokens: usize,
    /// Requests wait for no number or share of others: a step takes those for whom there is room.
    waiting_served_ratio: f32,
    max_batch_total_tokens: usize,
    /// As for the ratio.
    max_waiting_tokens: usize,
    validation_workers: usize,
    /// As many prompts as a request of several may have.
    max_client_batch_size: usize,
    payload_limit: usize,
    router: &'static str,
    version: &'static str,
    /// Builds are told apart by their version.
    sha: Option<&'static str>,
    docker_label: Option<&'static str>,
    /// Not part of TGI's.
    backend: String,
    /// Not part of TGI's.
    tensor_parallel: usize,
    /// Not part of TGI's.
    state: StateResponse,
}

/// What the server is doing.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct StateResponse {
    /// `loading`, `ready`, `recovering`, `draining` or `failed`.
    name: &'static str,
    /// In seconds since 1970.
    since: u64,
    /// Why it does not serve, if it does not.
    reason: Option<String>,
}

impl From<State> for StateResponse {
    fn from(state: State) -> Self {
        Self { name: state.name.as_str(), since: state.since_unix_s(), reason: state.reason }
    }
}

impl InfoResponse {
    pub(crate) fn new(service: &Service, payload_limit: usize) -> Self {
        let info = service.info();
        Self {
            model_id: info.model_id.clone(),
            model_sha: None,
            model_dtype: "torch.bfloat16",
            model_device_type: if info.backend == "cuda" { "cuda" } else { "cpu" },
            model_pipeline_tag: None,
            max_concurrent_requests: info.max_concurrent_requests,
            max_best_of: info.tgi.max_best_of,
            max_stop_sequences: info.tgi.max_stop_sequences,
            max_top_n_tokens: info.tgi.max_top_n_tokens,
            max_input_length: info.limits.max_input_length,
            max_input_tokens: info.limits.max_input_length,
            max_total_tokens: info.limits.max_total_tokens,
            waiting_served_ratio: 0.0,
            max_batch_total_tokens: service.kv_tokens(),
            max_waiting_tokens: 0,
            validation_workers: service.tokenizer_threads(),
            max_client_batch_size: info.max_concurrent_requests,
            payload_limit,
            router: "peregrine",
            version: env!("CARGO_PKG_VERSION"),
            sha: None,
            docker_label: None,
            backend: info.backend.clone(),
            tensor_parallel: info.tensor_parallel,
            state: service.state().into(),
        }
    }
}
