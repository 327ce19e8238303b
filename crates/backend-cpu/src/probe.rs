//! What this CPU can do at most, measured: the limits that products run into.

use crate::Isa;
use crate::kernels::amx::Amx;
use crate::kernels::memory::Buffer;
use crate::kernels::probe::ReadAll;
use crate::kernels::simd::dispatch;
use backend::BackendError;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Elements that each thread reads in a pass: far more than caches hold.
const READ_LEN: usize = 64 << 20;
const READ_PASSES: usize = 5;
/// Products of tiles in a pass: some 5 ms.
const PRODUCTS: usize = 1_000_000;
const PRODUCT_PASSES: usize = 5;

/// Bytes a second that `threads` threads together read from memory: one figure for each of some passes.
///
/// # Errors
///
/// [`BackendError::OutOfMemory`]: there is no room for as much as has to be read.
pub fn read_bytes_per_s(threads: usize) -> Result<Vec<f64>, BackendError> {
    let room = || Buffer::zeroed(READ_LEN).ok_or(BackendError::OutOfMemory { what: "a probe", bytes: 4 * READ_LEN });
    let mut buffers = (0..threads).map(|_| room()).collect::<Result<Vec<Buffer<f32>>, _>>()?;
    // Only what was written has pages of its own.
    buffers.iter_mut().for_each(|buffer| buffer.fill(1.0));
    let bytes = (size_of::<f32>() * READ_LEN * threads) as f64;
    let passes = passes(threads, READ_PASSES, |thread| {
        black_box(dispatch(Isa::detect(), ReadAll(&buffers[thread])));
    });
    Ok(passes.into_iter().map(|time| bytes / time.as_secs_f64()).collect())
}

/// Operations a second of the matrix units of `threads` threads on bf16, of which a product and a sum are two: the best
/// of some passes, which touch no memory. `None` without such a unit.
#[must_use]
pub fn matrix_operations_per_s(threads: usize) -> Option<f64> {
    let amx = Amx::detect()?;
    let passes = passes(threads, PRODUCT_PASSES, |_| amx.multiply_registers(PRODUCTS));
    let operations = (threads * PRODUCTS * Amx::PRODUCT_OPERATIONS) as f64;
    passes.into_iter().map(|time| operations / time.as_secs_f64()).reduce(f64::max)
}

/// How long `threads` threads that begin together take until the last one is done, several times.
fn passes(threads: usize, passes: usize, run: impl Fn(usize) + Sync) -> Vec<Duration> {
    let barrier = Barrier::new(threads);
    let (barrier, run) = (&barrier, &run);
    let timed = move |thread: usize| {
        let pass = |_| {
            barrier.wait();
            let begin = Instant::now();
            run(thread);
            barrier.wait();
            begin.elapsed()
        };
        (0..passes).map(pass).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || timed(thread))).collect();
        let times = timed(0);
        others.into_iter().for_each(|other| drop(other.join()));
        times
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_run_on_every_thread() {
        let ran: Vec<_> = (0..3).map(|_| std::sync::atomic::AtomicUsize::new(0)).collect();
        let times = passes(3, 4, |thread| {
            ran[thread].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(times.len(), 4);
        assert!(ran.iter().all(|ran| ran.load(std::sync::atomic::Ordering::Relaxed) == 4));
    }

    #[test]
    fn only_a_matrix_unit_has_a_rate() {
        let rate = matrix_operations_per_s(1);
        assert_eq!(rate.is_some(), Isa::Amx.supported());
        assert!(rate.is_none_or(|rate| rate > 1e9));
    }
}
