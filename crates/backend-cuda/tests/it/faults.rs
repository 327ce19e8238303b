//! What is said when the machine is not as it should be. These are faults of the stand-in: real GPUs have none to order.

use crate::standin::{finish, in_a_process, install, is_child, on_device};
use backend::{Backend, Batch, Linear, SingleRank, StepInput, Tensor, Threads};
use backend_cuda::{Cuda, CudaOptions, discover};
use std::time::Duration;
use testkit::on_threads;

/// Not a test of its own, but run by one, in a process: what the machine is found to be.
#[test]
fn the_machine() {
    if !is_child() {
        return;
    }
    install();
    match discover() {
        Err(error) => println!("error: {error}"),
        Ok(gpus) => {
            println!("{:?}", gpus.all[0]);
            println!("for 2: {:?}", gpus.for_ranks(2).map(<[_]>::len).map_err(|error| error.to_string()));
            println!("peers: {:?}", gpus.check_peer_access(gpus.all.len()).map_err(|error| error.to_string()));
        }
    }
}

#[test]
fn every_absence_is_an_error_of_its_own() {
    if on_device() {
        return println!("not run: real GPUs cannot be absent to order");
    }
    for (variable, value, expected) in [
        ("CUDA_STANDIN_DRIVER", "11080", "has CUDA 11.8, expected 12.2"),
        ("CUDA_STANDIN_DEVICES", "0", "finds no GPU"),
        ("CUDA_STANDIN_DEVICES", "1", "--tensor-parallel 2 needs 2 GPUs, and the driver finds 1"),
        ("CUDA_STANDIN_MODEL", "A10G", "capability: (8, 6)"),
        ("CUDA_STANDIN_MEMORY_MB", "512", "memory_bytes: 536870912"),
        ("CUDA_STANDIN_NO_PEER", "0-3", "GPU 0 cannot access the memory of GPU 3"),
    ] {
        let (text, _) = finish(in_a_process("faults::the_machine", &[(variable, value)]));
        assert!(text.contains(expected), "{variable}={value}: expected {expected:?} in\n{text}");
    }
}

fn device() -> Cuda {
    install();
    Cuda::new(&CudaOptions::new(0), Box::new(SingleRank)).expect("a device")
}

/// Not a test of its own, but run by one, in a process: launches until something fails.
#[test]
fn a_few_launches() {
    if !is_child() {
        return;
    }
    let mut backend = device();
    let table = backend.matrix(4, 8, &|_, _| {}).expect("room");
    let mut x = backend.tensor(1, 8).expect("room");
    x.set_rows(1);
    for token in 0..4 {
        let batch = Batch { tokens: vec![token], ..Batch::default() };
        let step = backend.prepare(StepInput::without_logits(&batch)).expect("prepare");
        let ran = backend.embed(&table, 0, &step, &mut x).and_then(|()| backend.read(&x).map(|_| ()));
        println!("launch {token}: {}", ran.map_or_else(|error| error.to_string(), |()| "fine".to_owned()));
    }
}

#[test]
fn a_device_that_fails_is_named_with_its_rank_and_the_operation() {
    if on_device() {
        return println!("not run: real GPUs do not fail to order");
    }
    let (text, _) = finish(in_a_process("faults::a_few_launches", &[("CUDA_STANDIN_ECC", "0:3")]));
    assert!(text.contains("launch 1: fine"), "{text}");
    let line = text.lines().find(|line| line.starts_with("launch 2")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("reading a tensor: rank 0, device 0") && line.contains("ECC"), "{line}");
}

/// Not a test of its own, but run by one, in a process: products of many rows, behind a launch that fails when it runs.
#[test]
fn products_behind_a_failure() {
    if !is_child() {
        return;
    }
    let mut backend = device();
    let (table, weight) = (backend.matrix(4, 8, &|_, _| {}), backend.matrix(8, 8, &|_, _| {}));
    let (table, linear) = (table.expect("room"), Linear { weight: weight.expect("room"), bias: None });
    let (mut x, mut y) = (backend.tensor(ROWS, 8).expect("room"), backend.tensor(ROWS, 8).expect("room"));
    x.set_rows(ROWS);
    y.set_rows(ROWS);
    let batch = Batch { tokens: vec![0; ROWS], ..Batch::default() };
    let step = backend.prepare(StepInput::without_logits(&batch)).expect("prepare");
    backend.embed(&table, 0, &step, &mut x).expect("it can be launched");
    let error = (0..100_000).find_map(|_| backend.linear(&x, &linear, &mut y).err());
    println!("{}", error.expect("the device has failed"));
}

/// Too many for our own kernel of products.
const ROWS: usize = 65;

#[test]
fn a_library_on_a_device_that_has_failed_says_why() {
    if on_device() {
        return println!("not run: real GPUs do not fail to order");
    }
    let (text, _) = finish(in_a_process("faults::products_behind_a_failure", &[("CUDA_STANDIN_ECC", "0:2")]));
    let line = text.lines().find(|line| line.contains("cuBLASLt")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("EXECUTION_FAILED, after ") && line.contains("ECC"), "{line}");
}

/// Not a test of its own, but run by one, in a process: one of two ranks does not come to the second step.
#[test]
fn a_rank_alone_in_a_step() {
    if !is_child() {
        return;
    }
    install();
    let limit = Duration::from_secs(5);
    let options = CudaOptions { wait_limit: limit, step_limit: limit, ..CudaOptions::new(0) };
    on_threads(Threads::connect(2), |rank, end| {
        let mut engine = crate::steps::load(&options, end);
        for (step, rows) in [3, 1].into_iter().enumerate().take(2 - rank) {
            let ran = engine.step(crate::steps::plan(step, rows), &[]).map(|result| result.outputs.len());
            println!(
                "rank {rank}, step {step}: {}",
                ran.map_or_else(|error| error.to_string(), |n| format!("{n} done"))
            );
        }
        std::mem::forget(engine);
    });
    std::process::exit(0);
}

#[test]
fn a_rank_that_is_late_in_a_step_is_named() {
    let (text, _) = finish(in_a_process("faults::a_rank_alone_in_a_step", &[]));
    assert!(text.contains("rank 0, step 0: 1 done") && text.contains("rank 1, step 0: 1 done"), "{text}");
    let line = text.lines().find(|line| line.starts_with("rank 0, step 1")).unwrap_or_else(|| panic!("{text}"));
    for part in ["step 1: a step: rank 0, device 0", "1 rows have not ended", "rank 1 has not reached barrier"] {
        assert!(line.contains(part), "expected {part:?} in {line}");
    }
}

/// Not a test of its own, but run by one, in a process: one of two ranks stays away.
#[test]
fn a_rank_alone_in_a_sum() {
    if !is_child() {
        return;
    }
    install();
    on_threads(Threads::connect(2), |device, end| {
        let options = CudaOptions { wait_limit: Duration::from_secs(5), ..CudaOptions::new(device) };
        let mut backend = Cuda::new(&options, Box::new(end)).expect("a device");
        let mut x = backend.tensor(1, 8).expect("room");
        // The first sum connects both ranks; the second lacks one.
        for sum in 0..2 - device {
            backend.write(&mut x, &[1.0; 8]).expect("write");
            let summed = backend.all_reduce(&mut x).and_then(|()| backend.read(&x));
            println!("rank {device}, sum {sum}: {summed:?}");
        }
        std::mem::forget(backend);
    });
    std::process::exit(0);
}

#[test]
fn a_rank_that_stays_away_is_not_waited_for_for_ever() {
    let (text, _) = finish(in_a_process("faults::a_rank_alone_in_a_sum", &[]));
    assert!(text.contains("rank 1, sum 0: Ok") && text.contains("no answer within 5000 ms"), "{text}");
}
