//! Every backend reads each element of a rank's part once, or the checksums would not be those of the files' bytes.

use backend::{Backend, Reference, SingleRank};
use backend_cpu::{Cpu, CpuOptions, Isa};
use model::Partition;
use std::path::Path;
use std::time::Duration;
use testkit::goldens::model_dir;
use weights::{Checkpoint, TensorChecksum};
use worker::{LoadProgress, RankSpec};

/// Of the rank's part, read as plainly as can be.
fn expected(model: &Path, rank: usize, world: usize) -> Vec<TensorChecksum> {
    let checkpoint = Checkpoint::open(model).expect("a model");
    let reader = checkpoint.shard(&Partition::new(checkpoint.config(), rank, world)).expect("not cut");
    reader.tensors().iter().for_each(|tensor| reader.read_f32(tensor, &mut vec![0.0; tensor.local_elements()]));
    reader.checksums()
}

fn loaded(model: &Path, rank: usize, world: usize, backend: impl Backend + 'static) -> Vec<TensorChecksum> {
    let spec = RankSpec {
        model_dir: model.to_owned(),
        tied: Checkpoint::open(model).expect("a model").config().tied,
        backend: String::new(),
        rank,
        world,
        kv_blocks: 1,
        step_rows_max: 1,
        collective_limit: Duration::MAX,
        step_limit: Duration::MAX,
        threads: 2,
        isa: None,
    };
    worker::load(backend, &spec, &LoadProgress::new()).expect("it loads").checksums
}

#[test]
fn every_backend_reads_all_that_the_rank_has_once() {
    // With two norms; with biases of sums, which are read again; with a head that is not tied.
    for model in ["tiny-falcon-7b", "tiny-falcon-40b", "tiny-falcon-rw", "tiny-falcon2-11b"].map(model_dir) {
        for (rank, world) in [(0, 1), (0, 3), (2, 3)] {
            let expected = expected(&model, rank, world);
            assert!(expected.len() > 10, "{expected:?}");
            let case = format!("rank {rank} of {world} of {}", model.display());
            assert_eq!(loaded(&model, rank, world, Reference::new(SingleRank)), expected, "{case}");
            for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
                let options = CpuOptions { threads: 2, isa: Some(isa), cores: None };
                let cpu = Cpu::new(&options, SingleRank).expect("a CPU");
                assert_eq!(loaded(&model, rank, world, cpu), expected, "{isa}, {case}");
            }
        }
    }
}
