//! What kernels have done to memory, by their names: for callers, and as a file.

use crate::config::config;
use crate::exec::counters::KernelCounters;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static SUMS: Mutex<BTreeMap<String, KernelCounters>> = Mutex::new(BTreeMap::new());
static ON: AtomicBool = AtomicBool::new(false);
static CHANGED: AtomicBool = AtomicBool::new(false);

fn sums() -> MutexGuard<'static, BTreeMap<String, KernelCounters>> {
    SUMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a caller has asked for counting.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Adds a launch.
pub fn add(kernel: &str, counters: &KernelCounters) {
    sums().entry(kernel.to_owned()).or_default().add(counters);
    CHANGED.store(true, Ordering::Relaxed);
}

/// Writes the file, if there is to be one and something has changed.
pub fn write() {
    let Some(path) = &config().report else { return };
    if !CHANGED.swap(false, Ordering::Relaxed) {
        return;
    }
    let path = format!("{path}.{}", std::process::id());
    if let Err(error) = std::fs::write(&path, text()) {
        crate::driver::complain(&format!("{path}: {error}"));
    }
}

fn text() -> String {
    let mut text = "kernel launches instructions read distinct_read written distinct_written read_sectors \
                    written_sectors shared_wavefronts shared_conflicts reread\n"
        .to_owned();
    for (name, it) in &*sums() {
        let numbers = [
            it.launches,
            it.instructions,
            it.read_bytes,
            it.distinct_read_bytes,
            it.written_bytes,
            it.distinct_written_bytes,
            it.read_sectors,
            it.written_sectors,
            it.shared_wavefronts,
            it.shared_conflicts,
            it.reread_bytes,
        ];
        text.push_str(name);
        for number in numbers {
            write!(text, " {number}").expect("a string can always be written to");
        }
        text.push('\n');
    }
    text
}

/// Starts or stops the counting, which slows kernels.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "like the functions beside it")]
pub extern "C" fn cuStandinCount(on: u32) {
    ON.store(on != 0, Ordering::Relaxed);
}

/// Gives a kernel's sums, all zero if it never ran, and 1 if a pointer is null.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "like the functions beside it")]
pub extern "C" fn cuStandinCounters(kernel: *const c_char, out: Option<&mut MaybeUninit<KernelCounters>>) -> u32 {
    let Some(out) = out.filter(|_| !kernel.is_null()) else { return 1 };
    // SAFETY: the caller gives a string that ends with zero.
    let kernel = unsafe { CStr::from_ptr(kernel) }.to_string_lossy();
    out.write(sums().get(&*kernel).copied().unwrap_or_default());
    0
}

/// Forgets all sums.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "like the functions beside it")]
pub extern "C" fn cuStandinReset() {
    sums().clear();
}
