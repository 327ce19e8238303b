//! Ranks as threads of one process.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

/// Held while several ranks run. Their kernels wait for each other, and freeing memory of a device waits for all its kernels, those of
/// other tests, too: of two groups on the same devices each could wait for the other for ever.
static GROUP: Mutex<()> = Mutex::new(());

/// Runs each rank on a thread of its own, with what it is given in `ranks`: its end of a collective, or how to make its
/// backend. Gives their results, in rank order. One group of ranks runs at a time.
///
/// # Panics
///
/// As the first rank that panics. The others must notice: a collective tells them that one has left.
pub fn on_threads<E: Send, R: Send>(ranks: Vec<E>, run: impl Fn(usize, E) -> R + Sync) -> Vec<R> {
    let _alone = (ranks.len() > 1).then(|| GROUP.lock().unwrap_or_else(PoisonError::into_inner));
    std::thread::scope(|scope| {
        let run = &run;
        let start = |(rank, end)| scope.spawn(move || run(rank, end));
        let threads: Vec<_> = ranks.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}
