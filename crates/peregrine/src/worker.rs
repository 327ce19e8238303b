//! `peregrine worker`: one rank.

use crate::engine_args::CudaArgs;
use crate::log;
use crate::signals::Signals;
use anyhow::{Context, Result, bail};
use clap::Args;
use runtime::open_rank;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use worker::{LoadProgress, RankSpec};

/// Arguments of `peregrine worker`.
#[derive(Args)]
pub struct WorkerArgs {
    /// Which rank it is. This and the next are for lists of processes: the coordinator says the same over the socket.
    #[arg(long, value_name = "N", default_value_t = 0)]
    rank: usize,
    /// How many ranks there are.
    #[arg(long, value_name = "N", default_value_t = 1)]
    world: usize,
    #[command(flatten)]
    cuda: CudaArgs,
}

/// Serves the coordinator at the other end of standard input until it is gone, and ends.
pub fn run(args: WorkerArgs) -> Result<()> {
    let WorkerArgs { rank, world, cuda } = args;
    tracing::debug!("rank {rank} of {world}, process {}", std::process::id());
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let socket = UnixStream::from(socket);
    if socket.peer_addr().is_err() {
        bail!("a worker is started by `peregrine serve` or `peregrine generate`, over a socket as its standard input");
    }
    let rendezvous = wire::take_over(&socket).context("the coordinator's first word")?;
    // It passes messages on, which this thread does well alone.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Whoever signals a whole service means its coordinator, which lets the workers finish and then closes the socket.
        let _ignored = Signals::new()?;
        let cuda = cuda.settings();
        let open = move |spec: &RankSpec, progress: &LoadProgress| open_rank(spec, rendezvous, &cuda, progress);
        worker::serve(socket, open).await.map_err(anyhow::Error::from)
    })?;
    log::flush();
    // The device thread may be in the middle of a step that nobody waits for.
    std::process::exit(0);
}
