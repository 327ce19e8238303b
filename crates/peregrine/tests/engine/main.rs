//! A coordinator with real worker processes, driven without a face: what the engine itself promises.

mod amx;
mod batching;
mod cuda;
mod ends;
mod fleet;
mod goldens;
mod seeds;
#[path = "../support/standin.rs"]
mod standin;
mod watermark;
