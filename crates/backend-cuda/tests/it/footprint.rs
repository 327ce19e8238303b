//! What ranks allocate, by the stand-in's count, is what `sizing` says before a device is opened.

use crate::standin::{finish, in_a_process, install, is_child, on_device};
use backend::{Collective, Threads};
use backend_cuda::{Cuda, CudaFootprint, CudaOptions, discover};
use cudarc::driver::result::mem_get_info;
use forward::{Capacity, Falcon};
use model::{FalconConfig, Partition};
use sizing::{Ranks, WeightFormat};
use std::time::Duration;
use testkit::{ZeroWeights, small_models};

/// Figures may be off by so much.
const TOLERANCE: f64 = 0.01;

fn check(name: &str, config: &FalconConfig, world: usize, capacity: Capacity) {
    let gpus = discover().expect("a driver");
    std::thread::scope(|scope| {
        for end in Threads::connect(world) {
            let gpu = &gpus.all[end.rank()];
            scope.spawn(move || {
                let rank = end.rank();
                let options = CudaOptions { wait_limit: Duration::from_secs(300), ..CudaOptions::new(rank) };
                let backend = Cuda::new(&options, Box::new(end)).expect("a device");
                let partition = Partition::new(config, rank, world);
                let falcon = Falcon::load(backend, config, &partition, capacity, &ZeroWeights).expect("room");
                let (free, total) = mem_get_info().expect("a device");
                let footprint = CudaFootprint::of(gpu, world);
                let ranks = Ranks::new(config, world, WeightFormat::Bf16, &footprint);
                let bytes = ranks.bytes(rank, capacity.kv_blocks, capacity.rows_max);
                let (found, expected) = ((total - free) as f64, bytes.total() as f64);
                println!("{name}, rank {rank} of {world}, {capacity:?}: {found} bytes, expected {expected}: {bytes:?}");
                assert!((found - expected).abs() <= TOLERANCE * expected, "{name}, rank {rank} of {world}");
                drop(falcon);
            });
        }
    });
}

/// Not a test of its own, but run by one, in a process in which nothing else allocates.
#[test]
fn of_all_models() {
    if !is_child() {
        return;
    }
    install();
    // Each degree with both capacities, each model with one for each degree.
    let capacities = [(64, 16), (700, 600)];
    for (index, (name, config)) in small_models().into_iter().enumerate() {
        for (turn, world) in [1, 2, 8].into_iter().enumerate() {
            let (kv_blocks, rows_max) = capacities[(index + turn) % 2];
            check(name, &config, world, Capacity { kv_blocks, rows_max, logits_rows_max: 256 });
        }
    }
}

#[test]
fn ranks_allocate_what_sizing_says() {
    if is_child() || on_device() {
        return;
    }
    // As much as there is: no allocation fails.
    let child = in_a_process("footprint::of_all_models", &[("CUDA_STANDIN_MEMORY_MB", "0")]);
    let (said, succeeded) = finish(child);
    assert!(succeeded && said.contains("rank 7 of 8"), "{said}");
    println!("{said}");
}
