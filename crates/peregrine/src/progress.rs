//! How far a load, a download or other work on many bytes is, for people.

use crate::supervisor;
use coordinator::Status;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use source::Progress;
use std::cell::Cell;
use std::io::IsTerminal;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tracing::info;

/// How often a log says how far a load is.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the load, on a terminal as a bar, else as log lines, until it has ended in some way.
pub async fn show(mut status: watch::Receiver<Status>) {
    let bar = if std::io::stderr().is_terminal() { Bar::start("loading") } else { None };
    let (begin, mut logged) = (Instant::now(), Instant::now());
    loop {
        let now = status.borrow_and_update().clone();
        let Status::Loading { done, total } = now else { break };
        match &bar {
            _ if total == 0 => {}
            Some(bar) => bar.set(done, total),
            None if logged.elapsed() >= LOG_INTERVAL => {
                logged = Instant::now();
                info!("loading: {}", far(done, total, 0, begin.elapsed()));
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

/// How often it is looked how far a download is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Shows the download of `name` while `work` brings it, if there is anything to download.
pub async fn while_downloading<T>(name: &str, progress: &Progress, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let (begin, mut told, mut bar) = (Instant::now(), None::<Instant>, None);
    let mut had = 0;
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let (done, total) = progress.get();
        if done == total {
            continue;
        }
        if told.is_none() {
            // What was there before says nothing of how fast it comes.
            had = done;
            bar = if std::io::stderr().is_terminal() { Bar::start("downloading") } else { None };
        }
        if let Some(bar) = &bar {
            bar.set(done, total);
        }
        if told.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
            told = Some(Instant::now());
            let far = format!("downloading {name}: {}", far(done, total, had, begin.elapsed()));
            supervisor::tell_that_it_starts(&far).await;
            if bar.is_none() {
                info!("{far}");
            }
        }
    };
    if let Some(bar) = bar {
        bar.clear().await;
    }
    result
}

/// How far some work on bytes is: a bar on a terminal, else log lines.
pub struct Bytes {
    what: &'static str,
    bar: Option<Bar>,
    total: u64,
    begin: Instant,
    logged: Cell<Instant>,
}

impl Bytes {
    /// The work `what` begins, on `total` bytes.
    pub fn start(what: &'static str, total: u64) -> Self {
        let bar = if std::io::stderr().is_terminal() { Bar::start(what) } else { None };
        Self { what, bar, total, begin: Instant::now(), logged: Cell::new(Instant::now()) }
    }

    /// So many are done.
    pub fn set(&self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set(done, self.total),
            None if self.logged.get().elapsed() >= LOG_INTERVAL => {
                self.logged.set(Instant::now());
                info!("{}: {}", self.what, far(done, self.total, 0, self.begin.elapsed()));
            }
            None => {}
        }
    }

    /// The work has ended.
    pub fn end(self) {
        if let Some(Bar { far, cleared }) = self.bar {
            drop(far);
            let _ = cleared.blocking_recv();
        }
    }
}

/// A bar on the terminal. A thread of its own draws it: a terminal may stand still.
struct Bar {
    far: std::sync::mpsc::Sender<(u64, u64)>,
    cleared: oneshot::Receiver<()>,
}

impl Bar {
    /// `None` where no thread can be started.
    fn start(what: &str) -> Option<Self> {
        let template = format!("{what} {{bar:30}} {{bytes}} of {{total_bytes}}, {{bytes_per_sec}}, {{eta}} left");
        let style = ProgressStyle::with_template(&template);
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

/// How far something is that had some bytes when it began.
fn far(done: u64, total: u64, had: u64, elapsed: Duration) -> String {
    let rate = gb(done - had.min(done)) / elapsed.as_secs_f64();
    let so_far = format!("{:.2} of {:.2} GB, {rate:.2} GB/s", gb(done), gb(total));
    if rate > 0.0 { format!("{so_far}, {:.0} s left", (gb(total) - gb(done)) / rate) } else { so_far }
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
