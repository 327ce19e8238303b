//! `peregrine worker`: one rank.

use crate::backends::{CudaArgs, open_rank};
use crate::signals::Signals;
use anyhow::{Context, Result, bail};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Serves the coordinator at the other end of standard input until it is gone, and ends.
pub fn run(cuda: CudaArgs) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let socket = UnixStream::from(socket);
    if socket.peer_addr().is_err() {
        bail!("a worker is started by `peregrine serve` or `peregrine generate`, over a socket as its standard input");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        // Whoever signals a whole service means its coordinator, which lets the workers finish and then closes the socket.
        let _ignored = Signals::new()?;
        worker::serve(socket, move |spec, progress| open_rank(spec, &cuda, progress)).await.map_err(anyhow::Error::from)
    })?;
    // The device thread may be in the middle of a step that nobody waits for.
    std::process::exit(0);
}
