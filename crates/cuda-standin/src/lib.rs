//! Stand-in CUDA libraries: what production code finds under the names `libcuda.so.1`, `libnccl.so.2`, `libcublasLt.so.12`
//! and `libnvidia-ml.so.1` on a machine with no GPU, so that its CUDA path is tested there without a change.
//!
//! All of them are one file, `libcuda_standin.so`; `scripts/with-standin CMD` puts it under the names and runs a command.
//!
//! * `ptx` turns the PTX that ships into programs; what it does not know is an error when the module is loaded.
//! * `exec` runs programs, and holds every access and every barrier to the rules.
//! * `driver` has devices, memory, streams, events, graphs and memory of other processes.
//! * `nccl` has collectives between processes, `cublaslt` products, `nvml` facts about the devices.
//! * `config` has the switches: which devices there are, how kernels are run, and which faults happen.
//! * `report` counts what kernels do to memory: `cuStandinCount`, `cuStandinCounters`, `cuStandinReset`, or a file.
//!
//! It proves that results are right, that no access goes astray and that no kernel needs luck. It says nothing about
//! speed, registers, races between blocks in weak memory order, or the quirks of a real driver.

mod config;
mod cublaslt;
mod driver;
mod exec;
mod handles;
mod nccl;
mod nvml;
mod ptx;
mod report;
