//! A progress bar.

use crate::load::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::convert::Infallible;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Shows how far a run is, if standard error is a terminal, until the future is dropped.
pub(super) async fn show(progress: &Progress, requests: u64, dataset: &str) -> Infallible {
    if !std::io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(requests), ProgressDrawTarget::stderr())
        .with_style(style.expect("the template is well formed"))
        .with_prefix(dataset.to_owned());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    loop {
        let (sent, done) = (read(&progress.sent), read(&progress.done));
        let rate = read(&progress.tokens) as f64 / bar.elapsed().as_secs_f64().max(1e-3);
        bar.set_position(done);
        bar.set_message(format!("{} running, {} failed, {rate:.0} tok/s", sent - done, read(&progress.failed)));
        tokio::time::sleep(REDRAW_INTERVAL).await;
    }
}
