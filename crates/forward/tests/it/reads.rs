//! What a load reads, and when.

use backend::{Reference, SingleRank};
use forward::{Capacity, Falcon, WeightSource};
use half::bf16;
use model::{FalconConfig, LayerNorms, Partition, ShardTensor, TensorId};
use std::ops::Range;
use std::sync::Mutex;
use testkit::small_models;

/// Weights of zero, which keep what is read of them.
#[derive(Default)]
struct Watched(Mutex<Vec<(TensorId, Range<usize>)>>);

impl Watched {
    fn keep(&self, tensor: &ShardTensor, elements: Range<usize>) {
        self.0.lock().expect("no panic").push((tensor.id, elements));
    }
}

impl WeightSource for Watched {
    fn read(&self, tensor: &ShardTensor, elements: Range<usize>, out: &mut [bf16]) {
        self.keep(tensor, elements);
        out.fill(bf16::ZERO);
    }

    fn read_f32(&self, tensor: &ShardTensor, out: &mut [f32]) {
        self.keep(tensor, 0..tensor.local_elements());
        out.fill(0.0);
    }

    fn release(&self, _: &ShardTensor) {}
}

#[test]
fn every_element_is_read_once_in_the_order_of_the_shard_table() {
    // Biases of two products that are one sum are no reason to read any of them twice.
    let variants = small_models().into_iter().flat_map(|(_, config)| {
        let biased = FalconConfig { norms: LayerNorms::ParallelTwo, bias: true, ..config.clone() };
        [config, biased]
    });
    for config in variants {
        for (rank, world) in [(0, 1), (0, 3), (2, 3)] {
            let partition = Partition::new(&config, rank, world);
            let capacity = Capacity { kv_blocks: 1, rows_max: 1, logits_rows_max: 1 };
            let watched = Watched::default();
            let backend = Reference::new(SingleRank);
            Falcon::load(backend, &config, &partition, capacity, &watched).map(drop).expect("it loads");
            let mut read = watched.0.into_inner().expect("no panic").into_iter().peekable();
            for tensor in model::shard(&config, &partition) {
                let mut pieces: Vec<Range<usize>> = Vec::new();
                while let Some((_, piece)) = read.next_if(|(id, _)| *id == tensor.id) {
                    pieces.push(piece);
                }
                // Threads read pieces of a tensor in any order.
                pieces.sort_unstable_by_key(|piece| piece.start);
                let end = pieces.into_iter().fold(0, |end, piece| {
                    assert_eq!(piece.start, end, "{}", tensor.id);
                    piece.end
                });
                assert_eq!(end, tensor.local_elements(), "{}, rank {rank} of {world}", tensor.id);
            }
            assert_eq!(read.next(), None, "read again");
        }
    }
}
