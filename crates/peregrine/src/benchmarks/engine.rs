//! `peregrine bench engine`: the coordinator and the gRPC API over a worker that answers at once.

use super::ready;
use crate::engine_args::{CudaArgs, worker_command};
use crate::output::print;
use anyhow::{Context, Result};
use bench::engine::EngineArgs;
use runtime::{BackendChoice, Engine, EngineOptions};
use server::{DEFAULT_STALL_LIMIT, Listeners};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const LOOPBACK: &str = "127.0.0.1:0";

/// Measures, and prints what was measured.
pub async fn run(args: &EngineArgs) -> Result<()> {
    let options = EngineOptions {
        backend: BackendChoice::Instant,
        kv_tokens: Some(args.kv_tokens()),
        max_batch_tokens: Some(args.concurrency + 512),
        // A stream that has ended for its reader gives its place back a moment later.
        max_concurrent_requests: Some(2 * args.concurrency),
        ..EngineOptions::new(worker_command(&CudaArgs::default())?)
    };
    let Engine { coordinator, service } = Engine::start(&options, 1)?;
    ready(&coordinator).await?;
    let listeners = Listeners { grpc: TcpListener::bind(LOOPBACK).await?, http: TcpListener::bind(LOOPBACK).await? };
    let address = listeners.grpc.local_addr()?.to_string();
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(service, listeners, DEFAULT_STALL_LIMIT, async {
        // The sender is dropped or used, which says the same.
        let _ = ended.await;
    }));
    let figures = bench::engine::run(args, &address).await;
    drop(end);
    serving.await.context("the server")?;
    coordinator.drain();
    coordinator.ended().await;
    let figures = figures?;
    print(&if args.json { format!("{}\n", figures.json()) } else { figures.markdown() })
}
