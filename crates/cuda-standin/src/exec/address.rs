//! Generic addresses. Global memory is where the host has it; shared and local memory lie in windows that no host address
//! is in.

/// Where shared memory starts among generic addresses.
pub const SHARED_WINDOW: u64 = 1 << 56;

/// Where a thread's local memory starts among generic addresses.
pub const LOCAL_WINDOW: u64 = 1 << 57;
