//! Reads and writes of one value.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A value of global memory, of `N` bytes.
///
/// # Safety
///
/// `at` is aligned to `N`, and the bytes are mapped while the kernel runs.
#[inline(always)]
pub(super) unsafe fn read_global<const N: usize>(at: u64) -> u64 {
    // SAFETY: of the caller. Atomic, as others may write it meanwhile.
    unsafe {
        match N {
            1 => AtomicU8::from_ptr(at as *mut u8).load(Ordering::Relaxed).into(),
            2 => AtomicU16::from_ptr(at as *mut u16).load(Ordering::Relaxed).into(),
            4 => AtomicU32::from_ptr(at as *mut u32).load(Ordering::Relaxed).into(),
            _ => AtomicU64::from_ptr(at as *mut u64).load(Ordering::Relaxed),
        }
    }
}

/// # Safety
///
/// As for [`read_global`].
#[inline(always)]
pub(super) unsafe fn write_global<const N: usize>(at: u64, value: u64) {
    // SAFETY: of the caller. Atomic, as others may read it meanwhile.
    unsafe {
        match N {
            1 => AtomicU8::from_ptr(at as *mut u8).store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(at as *mut u16).store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(at as *mut u32).store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(at as *mut u64).store(value, Ordering::Relaxed),
        }
    }
}

#[inline(always)]
pub(super) fn read_bytes<const N: usize>(memory: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&memory[at..at + N]);
    u64::from_le_bytes(bytes)
}

#[inline(always)]
pub(super) fn write_bytes<const N: usize>(memory: &mut [u8], at: usize, value: u64) {
    memory[at..at + N].copy_from_slice(&value.to_le_bytes()[..N]);
}
