//! How far a load is, for people.

use coordinator::Status;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tracing::info;

/// How often a log says how far a load is.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the load, on a terminal as a bar, else as log lines, until it has ended in some way.
pub async fn show(mut status: watch::Receiver<Status>) {
    let bar = if std::io::stderr().is_terminal() { Bar::start() } else { None };
    let (begin, mut logged) = (Instant::now(), Instant::now());
    loop {
        let now = status.borrow_and_update().clone();
        let Status::Loading { done, total } = now else { break };
        match &bar {
            _ if total == 0 => {}
            Some(bar) => bar.set(done, total),
            None if logged.elapsed() >= LOG_INTERVAL => {
                logged = Instant::now();
                log(done, total, begin.elapsed());
            }
            None => {}
        }
        if status.changed().await.is_err() {
            break;
        }
    }
    if let Some(bar) = bar {
        bar.clear().await;
    }
    if let Status::Ready { memory } = &*status.borrow() {
        let weights: u64 = memory.iter().map(|rank| rank.weight_bytes).sum();
        let kv: u64 = memory.iter().map(|rank| rank.kv_bytes).sum();
        let seconds = begin.elapsed().as_secs_f64();
        let rate = gb(weights) / seconds;
        info!("loaded {:.2} GB of weights in {seconds:.1} s ({rate:.2} GB/s); KV cache {:.2} GB", gb(weights), gb(kv));
    }
}

/// A bar on the terminal. A thread of its own draws it: a terminal may stand still.
struct Bar {
    far: std::sync::mpsc::Sender<(u64, u64)>,
    cleared: oneshot::Receiver<()>,
}

impl Bar {
    /// `None` where no thread can be started.
    fn start() -> Option<Self> {
        let style =
            ProgressStyle::with_template("loading {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
        // The coordinator tells ten times a second for each rank, as long as it loads.
        let ((far, how_far), (done, cleared)) = (std::sync::mpsc::channel(), oneshot::channel());
        let draw = move || {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style.expect("the template is well formed"));
            for (done, total) in how_far {
                bar.set_length(total);
                bar.set_position(done);
            }
            bar.finish_and_clear();
            // Nobody waits any more if the program ends.
            let _ = done.send(());
        };
        std::thread::Builder::new().name("progress".to_owned()).spawn(draw).ok()?;
        Some(Self { far, cleared })
    }

    fn set(&self, done: u64, total: u64) {
        // Should drawing have failed, there is less to see.
        let _ = self.far.send((done, total));
    }

    async fn clear(self) {
        drop(self.far);
        let _ = self.cleared.await;
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
