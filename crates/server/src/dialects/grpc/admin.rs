//! `peregrine.v1.Admin`: what the server does, and whether it takes requests. Who may ask is decided before
//! ([`access`](crate::access)).

use crate::Service;
use crate::telemetry::Ranks;
use coordinator::RankTimes;
use step::BLOCK_TOKENS;
use tonic::{Request, Response, Status};
use tracing::info;
use wire::generation as pb;
use wire::generation::admin_server::Admin;

/// The API for the operators of a [`Service`].
pub(crate) struct AdminApi(pub(crate) Service);

type Answer = Result<Response<pb::StatusResponse>, Status>;

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer {
        Ok(Response::new(status(&self.0)))
    }

    async fn drain(&self, _: Request<pb::DrainRequest>) -> Answer {
        info!("drained by its operator: no new requests are taken");
        self.0.drain();
        Ok(Response::new(status(&self.0)))
    }

    async fn undrain(&self, _: Request<pb::UndrainRequest>) -> Answer {
        if !self.0.undrain() {
            return Err(Status::failed_precondition("the server is shutting down"));
        }
        info!("no longer drained: requests are taken");
        Ok(Response::new(status(&self.0)))
    }
}

fn status(service: &Service) -> pb::StatusResponse {
    let (info, state, load) = (service.info(), service.state(), service.load());
    let Ranks { pids, last_step } = service.telemetry().ranks().clone();
    let micros = |times: &RankTimes| u64::try_from(times.device.as_micros()).unwrap_or(u64::MAX);
    let rank = |rank| pb::RankStatus {
        rank: narrow(rank),
        pid: pids.get(rank).copied().flatten(),
        step_micros: last_step.get(rank).map(micros),
    };
    pb::StatusResponse {
        state: Some(pb::ServerState {
            name: state.name.as_str().to_owned(),
            since_unix_seconds: state.since_unix_s(),
            reason: state.reason.unwrap_or_default(),
        }),
        load: Some(pb::Load {
            running: narrow(load.running),
            waiting: narrow(load.waiting),
            max_concurrent_requests: narrow(info.max_concurrent_requests),
            kv_tokens_total: service.kv_tokens() as u64,
            kv_tokens_available: (load.blocks_available * BLOCK_TOKENS) as u64,
        }),
        ranks: (0..info.tensor_parallel).map(rank).collect(),
        build: Some(pb::Build {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model_id: info.model_id.clone(),
            backend: info.backend.clone(),
            tensor_parallel: narrow(info.tensor_parallel),
        }),
    }
}

fn narrow(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
