//! The collective over shared memory: the suite with one mapping for each rank, and ranks in processes of their own.

use backend::{Collective, CollectiveError};
use backend_cpu::SharedMemory;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::collective_suite;

fn connect(world: usize, time_limit: Duration) -> Vec<SharedMemory> {
    let memory = SharedMemory::create(world).expect("shared memory");
    let join = |rank| SharedMemory::join(&memory, rank, world, time_limit).expect("join");
    (0..world).map(join).collect()
}

collective_suite!(shared_memory, connect);

const RANK: &str = "SHARED_MEMORY_TEST_RANK";
const WORLD: usize = 8;

/// The program of a rank, when the test below has started this binary again; nothing otherwise.
#[test]
fn rank_in_a_process() {
    let Ok(rank) = std::env::var(RANK) else { return };
    let rank: usize = rank.parse().expect("a rank");
    // The memory is its standard input.
    let mut end = SharedMemory::join(std::io::stdin(), rank, WORLD, Duration::from_secs(60)).expect("join");
    for len in [1, 300, 14_848, 300_000] {
        for turn in 0..50 {
            let mut x: Vec<f32> = (0..len).map(|i| ((i + turn) % 100 * (rank + 1)) as f32).collect();
            end.all_reduce(&mut x).expect("all_reduce");
            let ranks = WORLD * (WORLD + 1) / 2;
            assert!(x.iter().enumerate().all(|(i, x)| *x == ((i + turn) % 100 * ranks) as f32), "{len} elements");
        }
    }
}

#[test]
fn eight_processes_add_up() {
    let memory = SharedMemory::create(WORLD).expect("shared memory");
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(["--exact", "rank_in_a_process"]).env(RANK, rank.to_string());
        command.stdin(memory.try_clone().expect("a descriptor"));
        command.stdout(Stdio::null()).spawn().expect("a process")
    };
    let ranks: Vec<_> = (0..WORLD).map(start).collect();
    for mut rank in ranks {
        assert!(rank.wait().expect("an end").success());
    }
}

#[test]
fn a_wrong_place_is_refused() {
    let memory = SharedMemory::create(2).expect("shared memory");
    let limit = Duration::from_secs(1);
    let refusal = |memory: &dyn AsFd, rank, world| match SharedMemory::join(memory.as_fd(), rank, world, limit) {
        Err(CollectiveError::Setup { message, .. }) => message,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("rank {rank} of {world} joined"),
    };
    assert!(refusal(&memory, 0, 3).contains("3 ranks need"));
    assert!(refusal(&memory, 2, 2).contains("no such rank"));
    let (pipe, _) = std::io::pipe().expect("a pipe");
    assert!(refusal(&pipe, 0, 2).contains("has 0 bytes, and 2 ranks need"));
}

/// Rank 0 waits for rank 1, which never comes, until somebody makes it leave. Then both meet anew, rank 1 by another process's means.
#[test]
fn who_has_left_rejoins() {
    let limit = Duration::from_millis(100);
    let memory = SharedMemory::create(2).expect("shared memory");
    let join = |rank, limit| SharedMemory::join(&memory, rank, 2, limit).expect("join");
    let (mut one, other) = (join(0, Duration::from_secs(600)), join(1, limit));
    let leaver = one.leaver().expect("it can be left");
    let left = std::thread::scope(|scope| {
        let waits = scope.spawn(|| one.all_reduce(&mut [1.0]).expect_err("it is made to leave"));
        leaver();
        waits.join().expect("no panic")
    });
    assert!(matches!(left, CollectiveError::Aborted { rank: 0, by: 0, .. }), "{left:?}");
    drop(other);
    SharedMemory::renew(&memory, 2).expect("it is made new");
    one.rejoin();
    let sums = std::thread::scope(|scope| {
        let sum = |end: &mut SharedMemory| {
            let mut x = [1.0];
            end.all_reduce(&mut x).map(|()| x)
        };
        let waits = scope.spawn(move || sum(&mut one).map(|x| (x, one)));
        // It waits for longer than any limit of its own.
        let mut other = join(1, limit);
        let x = sum(&mut other).expect("a sum");
        let (y, mut one) = waits.join().expect("no panic").expect("a sum");
        one.settle();
        drop(other);
        assert!(one.all_reduce(&mut [1.0]).is_err(), "the other one has left");
        [x, y]
    });
    assert_eq!(sums, [[2.0]; 2]);
}
