//! How far a load is, for people.

use coordinator::Status;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::info;

/// How often a log says how far a load is.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the load, on a terminal as a bar, else as log lines, until it has ended in some way.
pub async fn show(mut status: watch::Receiver<Status>) {
    let terminal = std::io::stderr().is_terminal();
    let style = ProgressStyle::with_template("loading {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    let bar = ProgressBar::hidden().with_style(style.expect("the template is well formed"));
    if terminal {
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
    }
    let (begin, mut logged) = (Instant::now(), Instant::now());
    loop {
        let now = status.borrow_and_update().clone();
        let Status::Loading { done, total } = now else { break };
        if total > 0 && terminal {
            bar.set_length(total);
            bar.set_position(done);
        } else if total > 0 && logged.elapsed() >= LOG_INTERVAL {
            logged = Instant::now();
            log(done, total, begin.elapsed());
        }
        if status.changed().await.is_err() {
            break;
        }
    }
    bar.finish_and_clear();
    if let Status::Ready { memory } = &*status.borrow() {
        let weights: u64 = memory.iter().map(|rank| rank.weight_bytes).sum();
        let kv: u64 = memory.iter().map(|rank| rank.kv_bytes).sum();
        let seconds = begin.elapsed().as_secs_f64();
        let rate = gb(weights) / seconds;
        info!("loaded {:.2} GB of weights in {seconds:.1} s ({rate:.2} GB/s); KV cache {:.2} GB", gb(weights), gb(kv));
    }
}

fn log(done: u64, total: u64, elapsed: Duration) {
    let rate = gb(done) / elapsed.as_secs_f64();
    let left = (gb(total) - gb(done)) / rate;
    info!("loading: {:.2} of {:.2} GB, {rate:.2} GB/s, {left:.0} s left", gb(done), gb(total));
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
