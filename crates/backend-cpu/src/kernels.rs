//! What runs on vectors and on several threads: the one place of this crate, beside shared memory, with unsafe code.
//!
//! * [`simd`]: vectors, once for each instruction set; a kernel is written once over them.
//! * [`pool`]: threads that share out the tasks of an operation; [`tiles`]: disjoint parts of a matrix for them.
//! * [`linear`], [`norm`], [`gelu`], [`attention`], [`sum`]: the kernels, each for one tile of its output; [`exp`].
//! * [`amx`]: products on the matrix unit, where there is one.
//! * [`memory`]: large zeroed buffers on huge pages.

pub mod amx;
pub mod attention;
pub mod exp;
pub mod gelu;
pub mod linear;
pub mod memory;
pub mod norm;
pub mod pool;
#[cfg(test)]
mod pool_tests;
pub mod probe;
pub mod simd;
pub mod sum;
pub mod tiles;
