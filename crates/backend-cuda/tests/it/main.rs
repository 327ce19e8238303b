//! The backend on the stand-in libraries, which run the PTX that ships; or on real GPUs.

mod bytes;
mod conformance;
mod faults;
mod footprint;
mod goldens;
mod measure;
mod pieces;
mod processes;
mod standin;
mod steps;
