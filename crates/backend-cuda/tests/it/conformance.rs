//! The CUDA backend against the reference.

use crate::standin;
use backend::Threads;
use backend_cuda::{AllReduceChoice, Cuda, CudaOptions};
use std::process::Stdio;
use std::time::Duration;
use testkit::conformance::{self, MakeRank, Subject};
use testkit::conformance_suite;

/// Inputs of products are rounded to bf16, by up to 2^-9 of each; so are keys, queries, weights of attention and results.
const TOLERANCE: f32 = 4e-3;

/// When the stand-in makes asynchronous copies, in which order it runs warps, and on which GPU, on whose shared memory stages
/// and grids depend: beside late copies, one warp after the other, on an A100.
const MODES: [(&str, &str, &str); 3] = [("early", "0", "A10G"), ("late", "1", "H100"), ("early", "2", "A100")];

#[test]
fn in_every_mode() {
    if standin::is_child() || standin::on_device() {
        return;
    }
    // Kernels have several threads; sums on the host have no kernels.
    let tests = ["conformance::", "--test-threads", "1", "--skip", "host::"];
    for (copies, seed, model) in MODES {
        let variables = [("CUDA_STANDIN_COPIES", copies), ("CUDA_STANDIN_SEED", seed), ("CUDA_STANDIN_MODEL", model)];
        let (text, succeeded) = standin::finish(standin::tests_in_a_process(&tests, &variables, Stdio::null()));
        assert!(succeeded && text.contains("test result: ok"), "{variables:?}:\n{text}");
    }
}

/// Ranks of one process, each with a device of its own.
fn cuda(change: impl Fn(&mut CudaOptions)) -> Subject<Cuda> {
    standin::install();
    let mut options = CudaOptions { chunk_bytes: 0, check_launches: true, ..CudaOptions::new(0) };
    options.wait_limit = Duration::from_secs(300);
    change(&mut options);
    let rank = move |(device, end): (usize, Threads)| {
        let options = CudaOptions { device, ..options.clone() };
        Box::new(move || Cuda::new(&options, Box::new(end)).expect("a device")) as MakeRank<Cuda>
    };
    let ranks = move |world| Threads::connect(world).into_iter().enumerate().map(&rank).collect();
    Subject { ranks: Box::new(ranks), tolerance: TOLERANCE }
}

// One order of all sums: the whole suite.
conformance_suite!(deterministic, cuda(|options| options.deterministic = true));

// The kernels for many rows change bits with chunks of a prompt, so all but that.
mod fast {
    use super::*;

    #[test]
    fn linear() {
        conformance::linear(&cuda(|_| ()));
    }

    #[test]
    fn attend() {
        conformance::attend(&cuda(|_| ()));
    }

    #[test]
    fn fused_operations() {
        conformance::fused_operations(&cuda(|_| ()));
    }
}

// Through the host's memory, sums are in rank order, too.
mod host {
    use super::*;

    #[test]
    fn all_reduce() {
        conformance::all_reduce(&cuda(|options| options.all_reduce = AllReduceChoice::Host));
    }

    #[test]
    fn sample_or_score() {
        conformance::sample_or_score(&cuda(|options| options.all_reduce = AllReduceChoice::Host));
    }
}

// By NCCL, whose order of sums is its own: only what needs no order.
mod nccl {
    use super::*;

    #[test]
    fn sample_or_score() {
        conformance::sample_or_score(&cuda(|options| options.all_reduce = AllReduceChoice::Nccl));
    }
}
