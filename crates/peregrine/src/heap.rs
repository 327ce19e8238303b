//! The C library's heap.

use libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};

/// Allocations from this size on are mapped from the system, and unmapped when they are freed; as much may stay unused at
/// the top of a heap. It is glibc's own default, to begin with.
const THRESHOLD_BYTES: i32 = 128 << 10;

/// Has memory of large allocations go back to the system once they are freed. By default glibc raises both thresholds to the size
/// of what is freed, up to 32 MiB: after a burst of large requests their memory stays with the process.
#[expect(unsafe_code, reason = "the C library has no other way to set it in a process that runs")]
pub fn give_back_large_allocations() {
    for parameter in [M_MMAP_THRESHOLD, M_TRIM_THRESHOLD] {
        // SAFETY: mallopt takes two numbers and sets one of malloc's parameters, under malloc's own lock; one that it does not
        // take is left as it was.
        unsafe { mallopt(parameter, THRESHOLD_BYTES) };
    }
}
