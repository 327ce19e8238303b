//! The threads that pass messages on.

use anyhow::{Context, Result};
use std::sync::Mutex;
use std::thread::{Builder, available_parallelism, scope};
use tokio::runtime::Runtime;

/// A runtime with a thread for each core.
///
/// # Errors
///
/// Where so many threads cannot be started, for which tokio panics.
pub fn start_runtime() -> Result<Runtime> {
    let threads = available_parallelism().map_or(1, usize::from);
    try_threads(threads).with_context(|| {
        format!("cannot start {threads} threads; is the number of processes limited (pids.max, ulimit -u)?")
    })?;
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}

/// Starts so many threads, all of which wait for the last.
fn try_threads(count: usize) -> std::io::Result<()> {
    let gate = Mutex::new(());
    scope(|scope| {
        let _held = gate.lock();
        (0..count).try_for_each(|_| Builder::new().spawn_scoped(scope, || drop(gate.lock())).map(drop))
    })
}
