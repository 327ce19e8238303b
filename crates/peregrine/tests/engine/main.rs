//! A coordinator with real worker processes, driven without a face: what the engine itself promises.

mod fleet;
mod goldens;
mod seeds;
mod watermark;
