//! Numbers of rows at which this backend switches algorithms.

/// The most rows for which a norm is computed in the prologue of its product.
pub const NORM_PRODUCT_ROWS_MAX: usize = 16;
/// The most rows that this program's own kernels multiply; with more, cuBLASLt does, if it is installed.
pub const OWN_PRODUCT_ROWS_MAX: usize = 64;
/// Rows of logits that are computed at a time.
pub const LOGITS_ROWS_MAX: usize = 256;
/// The most rows of a step.
pub const STEP_ROWS_MAX: usize = 1 << 14;
