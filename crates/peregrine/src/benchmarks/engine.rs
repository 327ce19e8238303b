//! `peregrine bench engine`: the coordinator and the gRPC face over a worker that answers at once.

use super::ready;
use crate::engine::{Engine, EngineArgs};
use crate::output::print;
use anyhow::{Context, Result};
use bench::engine::EngineArgs as BenchEngineArgs;
use server::Listeners;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const LOOPBACK: &str = "127.0.0.1:0";

/// Measures, and prints what was measured.
pub async fn run(args: &BenchEngineArgs) -> Result<()> {
    let engine = EngineArgs::from_flags(&[
        ("--backend", "instant"),
        ("--kv-tokens", &args.kv_tokens().to_string()),
        ("--max-batch-tokens", &(args.concurrency + 512).to_string()),
        // A stream that has ended for its reader gives its place back a moment later.
        ("--max-concurrent-requests", &(2 * args.concurrency).to_string()),
    ])?;
    let Engine { coordinator, service } = engine.start(1)?;
    ready(&coordinator).await?;
    let listeners = Listeners { grpc: TcpListener::bind(LOOPBACK).await?, http: TcpListener::bind(LOOPBACK).await? };
    let address = listeners.grpc.local_addr()?.to_string();
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(service, listeners, async {
        // The sender is dropped or used, which says the same.
        let _ = ended.await;
    }));
    let figures = bench::engine::run(args, &address).await;
    drop(end);
    serving.await.context("the server")??;
    coordinator.drain();
    coordinator.ended().await;
    let figures = figures?;
    print(&if args.json { format!("{}\n", figures.json()) } else { figures.markdown() })
}
