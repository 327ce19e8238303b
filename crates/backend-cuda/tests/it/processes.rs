//! Ranks in processes of their own, which map each other's memory.

use crate::standin::{finish, install, is_child, tests_in_a_process};
use backend::{Backend, Batch, SampleOutput, SampleRequest, SampleRow, StepInput};
use backend_cpu::SharedMemory;
use backend_cuda::{AllReduceChoice, Cuda, CudaOptions};
use std::time::Duration;
use step::SamplingParams;

const WORLD: usize = 3;
/// So many that ranks share out the additions.
const ROWS: usize = 80;
const COLUMNS: usize = 1024;

fn variable(name: &str) -> String {
    std::env::var(name).expect("set by the test that starts the process")
}

/// Not a test of its own, but run by one, in a process: one rank.
#[test]
fn one_rank() {
    if !is_child() {
        return;
    }
    install();
    let rank: usize = variable("TEST_RANK").parse().expect("a number");
    let limit = Duration::from_secs(120);
    let end = SharedMemory::join(std::io::stdin(), rank, WORLD, limit).expect("join");
    let all_reduce = if variable("TEST_ROUTE") == "nccl" { AllReduceChoice::Nccl } else { AllReduceChoice::Auto };
    let options = CudaOptions { all_reduce, wait_limit: limit, ..CudaOptions::new(rank) };
    let mut backend = Cuda::new(&options, Box::new(end)).expect("a device");
    // Small integers have one sum in any order.
    let part = |rank: usize, i: usize| ((i * 7 + rank * 13) % 32) as f32;
    let [mut partial, mut x] = [(); 2].map(|()| backend.tensor(ROWS, COLUMNS).expect("room"));
    for rows in [1, ROWS, 5] {
        let mine: Vec<f32> = (0..rows * COLUMNS).map(|i| part(rank, i)).collect();
        backend.write(&mut partial, &mine).expect("write");
        backend.write(&mut x, &mine).expect("write");
        backend.all_reduce(&mut x).expect("all_reduce");
        backend.all_reduce_add(&mut partial, &mut x).expect("all_reduce_add");
        let sums = backend.read(&x).expect("read");
        let sum = |i: usize| 2.0 * (0..WORLD).map(|rank| part(rank, i)).sum::<f32>();
        assert!(sums.iter().enumerate().all(|(i, &found)| found == sum(i)), "sums of {rows} rows");
    }
    let mut logits = backend.tensor(1, 5 + rank).expect("room");
    let mine: Vec<f32> = (0..5 + rank).map(|i| (rank * 10 + i) as f32).collect();
    backend.write(&mut logits, &mine).expect("write");
    let row =
        SampleRow { params: &SamplingParams::GREEDY, position: 1, prompt_len: 0, tokens: &[0], mask: None, top_n: 0 };
    let requests = [SampleRequest::Sample { row, slot: None, return_logits: false }];
    let batch = Batch { tokens: vec![0], ..Batch::default() };
    let step = backend.prepare(StepInput { batch: &batch, rows: &[0], requests: &requests }).expect("prepare");
    let chosen = backend.sample_or_score(&logits, &[5, 6, 7], &step, 0..1).expect("sample_or_score");
    let chosen = backend.wait(chosen).expect("outputs");
    let SampleOutput::Sample(sample) = &chosen[0] else { panic!("{chosen:?}") };
    assert_eq!(sample.token.id, 17, "the last of 18 is the largest");
    println!("rank {rank} is done");
}

fn all_ranks(route: &str) {
    let memory = SharedMemory::create(WORLD).expect("shared memory");
    let start = |rank: usize| {
        let variables = [("TEST_RANK", &*rank.to_string()), ("TEST_ROUTE", route)];
        let memory = memory.try_clone().expect("a descriptor");
        tests_in_a_process(&["--exact", "processes::one_rank", "--nocapture"], &variables, memory.into())
    };
    let children: Vec<_> = (0..WORLD).map(start).collect();
    for (rank, child) in children.into_iter().enumerate() {
        let (text, succeeded) = finish(child);
        assert!(succeeded && text.contains(&format!("rank {rank} is done")), "rank {rank} by {route}:\n{text}");
    }
}

#[test]
fn by_memory_that_is_mapped() {
    all_ranks("peers");
}

#[test]
fn by_nccl() {
    all_ranks("nccl");
}
