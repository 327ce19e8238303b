//! Ranks as threads of one process.

use std::panic::resume_unwind;

/// Runs each rank on a thread of its own, with what it is given in `ranks`: its end of a collective, or how to make its
/// backend. Gives their results, in rank order.
///
/// # Panics
///
/// As the first rank that panics. The others must notice: a collective tells them that one has left.
pub fn on_threads<E: Send, R: Send>(ranks: Vec<E>, run: impl Fn(usize, E) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let run = &run;
        let start = |(rank, end)| scope.spawn(move || run(rank, end));
        let threads: Vec<_> = ranks.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}
