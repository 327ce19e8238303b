//! The pool with threads of the system. `tests/models` has it with all their orders.

use super::pool::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn every_task_runs_once() {
    for threads in 1..5 {
        let mut pool = Pool::new(threads, 100).unwrap();
        for tasks in [0, 1, 2, 3, 100] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, &|thread, task| {
                assert!(thread < threads);
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
        }
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let mut pool = Pool::new(3, 0).unwrap();
    for task in 0..8 {
        let run = |_, this| assert_ne!(this, task, "the planted panic");
        let panic = catch_unwind(AssertUnwindSafe(|| pool.run(8, &run))).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("the planted panic"));
        pool.run(8, &|_, _| {});
    }
}
