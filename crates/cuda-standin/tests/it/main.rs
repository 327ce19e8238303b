//! The libraries, as an unmodified cudarc finds and calls them.

mod blas;
mod faults;
mod graphs;
mod limits;
mod memory;
mod ranks;
mod support;
