//! What ranks allocate is what `sizing` says before there is one.

use backend::{Backend, Collective, Footprint, Reference, ReferenceFootprint, Threads};
use backend_cpu::{Cpu, CpuFootprint, CpuOptions, Isa, allocated_bytes};
use cap::Cap;
use forward::{Capacity, Falcon};
use model::Partition;
use sizing::{Ranks, WeightFormat};
use std::alloc::System;
use testkit::{ZeroWeights, small_models};

/// Counts what is not in buffers of the backend.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Figures may be off by so much.
const TOLERANCE: f64 = 0.01;

/// Every rank of a few degrees, one after the other: loading asks nothing of the others.
fn check<B: Backend>(what: &str, footprint: &dyn Footprint, open: impl Fn(Threads) -> B) {
    for (name, config) in small_models() {
        for world in [1, 2, 8] {
            let ranks = Ranks::new(&config, world, WeightFormat::Bf16, footprint);
            for (kv_blocks, rows_max) in [(64, 16), (700, 600)] {
                let capacity = Capacity { kv_blocks, rows_max, logits_rows_max: footprint.logits_rows() };
                for end in Threads::connect(world) {
                    let rank = end.rank();
                    let partition = Partition::new(&config, rank, world);
                    let before = HEAP.allocated() + allocated_bytes();
                    let falcon = Falcon::load(open(end), &config, &partition, capacity, &ZeroWeights).expect("room");
                    let found = (HEAP.allocated() + allocated_bytes() - before) as f64;
                    drop(falcon);
                    let bytes = ranks.bytes(rank, kv_blocks, rows_max);
                    let expected = bytes.total() as f64;
                    println!("{what}, {name}, {rank} of {world}: {found} bytes, expected {expected}: {bytes:?}");
                    let off = (found - expected).abs() / expected;
                    assert!(off <= TOLERANCE, "{what}, {name}, rank {rank} of {world}, {capacity:?}: off by {off}");
                }
            }
        }
    }
}

/// One test: nothing else allocates meanwhile.
#[test]
fn ranks_allocate_what_sizing_says() {
    check("reference", &ReferenceFootprint, Reference::new);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
        for threads in [1, 3] {
            let options = CpuOptions { threads, isa: Some(isa), cores: None };
            let open = |end| Cpu::new(&options, end).expect("threads");
            check(&format!("{isa}, {threads} threads"), &CpuFootprint::new(Some(isa), threads), open);
        }
    }
}
