//! The thread pool.

use crate::explore;
use crate::pool::Pool;
use loom::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A place for each task, which loom watches.
struct Places(Vec<UnsafeCell<usize>>);

// SAFETY: loom fails the model where two threads use a place at the same time.
unsafe impl Sync for Places {}

impl Places {
    fn new(tasks: usize) -> Self {
        Self((0..tasks).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, task: usize) {
        // SAFETY: the place is the task's own, or loom fails the model.
        self.0[task].with_mut(|place| unsafe { *place += 1 });
    }

    /// One job, in which each task adds one to its place.
    fn job(&self, pool: &mut Pool) {
        pool.run(self.0.len(), &|_, task| self.add(task));
    }

    fn check(&self, jobs: usize) {
        for place in &self.0 {
            // SAFETY: all tasks have ended, or loom fails the model.
            place.with(|place| assert_eq!(unsafe { *place }, jobs, "each task runs once in each job"));
        }
    }
}

#[test]
fn two_jobs_of_two_threads() {
    explore(4, || {
        let places = Places::new(2);
        let mut pool = Pool::new(2, 0).expect("threads");
        for jobs in 1..=2 {
            places.job(&mut pool);
            places.check(jobs);
        }
    });
}

#[test]
fn two_jobs_of_three_threads() {
    explore(3, || {
        let places = Places::new(2);
        let mut pool = Pool::new(3, 0).expect("threads");
        for jobs in 1..=2 {
            places.job(&mut pool);
            places.check(jobs);
        }
    });
}

/// What a task borrows may be gone once `run` has ended, also by a panic.
#[test]
fn a_panic_waits_for_the_other_threads() {
    explore(4, || {
        let places = Places::new(2);
        let mut pool = Pool::new(2, 0).expect("threads");
        let job = AssertUnwindSafe(|| {
            pool.run(2, &|_, task| match task {
                0 => resume_unwind(Box::new("planted")),
                _ => places.add(task),
            });
        });
        assert!(catch_unwind(job).is_err(), "the panic reaches the caller");
        places.add(0);
        places.check(1);
        places.job(&mut pool);
        places.check(2);
    });
}
