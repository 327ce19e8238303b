//! The threads of one rank. The thread that owns the device takes part in every job, so a pool of one has no others.

use crate::sync::thread::{self, JoinHandle, Thread};
use crate::sync::{Arc, Mutex, PoisonError, UnsafeCell};
use crate::sync::{AtomicBool, AtomicU32, AtomicUsize, Ordering, spin_loop};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A fixed number of threads that wait for jobs: briefly in a loop, then asleep.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// How many jobs there have been. Helpers wait for it to change.
    generation: AtomicU32,
    job: UnsafeCell<Option<Job>>,
    next_task: AtomicUsize,
    /// Helpers that have not finished the job.
    busy: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// How often a waiting thread looks before it sleeps.
    spins: u32,
}

// SAFETY: `job` is written only in `Pool::run`, before `generation` grows (release) and after `busy` was seen as 0
// (acquire); a helper reads it only after it has seen `generation` grow (acquire) and before it lowers `busy`
// (release). All other fields are `Sync`, and what `job` holds is `Send` and `Sync`.
unsafe impl Sync for Shared {}

#[derive(Clone)]
struct Job {
    tasks: usize,
    run: &'static (dyn Fn(usize, usize) + Sync),
    caller: Thread,
}

impl Pool {
    /// A pool of `threads` threads, this one included.
    ///
    /// `spins` bounds how often a waiting thread looks before it sleeps; 0 where threads share cores.
    ///
    /// # Errors
    ///
    /// The system's, from starting a thread.
    pub fn new(threads: usize, spins: u32) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            generation: AtomicU32::new(0),
            job: UnsafeCell::new(None),
            next_task: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            spins,
        });
        let mut pool = Self { shared, helpers: Vec::new() };
        for number in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let helper = thread::Builder::new().name(format!("cpu-{number}")).spawn(move || shared.help(number))?;
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// How many threads take part in a job.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `run(thread, task)` once for each task, each on whichever thread is free, and returns when all are done.
    /// A thread runs one task at a time.
    ///
    /// # Panics
    ///
    /// If a task panics, with what it panicked with.
    pub fn run(&mut self, tasks: usize, run: &(dyn Fn(usize, usize) + Sync)) {
        if self.helpers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(|task| run(0, task));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. No helper uses `run` after it has lowered `busy`, and this function does
        // not return, nor unwind, before `busy` is 0: the tasks of this thread run under `catch_unwind`.
        let run = unsafe {
            std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static (dyn Fn(usize, usize) + Sync)>(run)
        };
        let job = Job { tasks, run, caller: thread::current() };
        // SAFETY: `&mut self` keeps other callers out, and no helper reads the job now: `busy` is 0.
        shared.job.with_mut(|place| unsafe { *place = Some(job.clone()) });
        shared.next_task.store(0, Ordering::Relaxed);
        shared.busy.store(self.helpers.len(), Ordering::Relaxed);
        shared.generation.fetch_add(1, Ordering::Release);
        self.helpers.iter().for_each(|helper| helper.thread().unpark());
        shared.work(0, &job);
        shared.wait(|| shared.busy.load(Ordering::Acquire) == 0);
        if shared.panicked.swap(false, Ordering::Relaxed)
            && let Some(panic) = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches the panics of tasks, so it ends well.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// The life of a helper.
    fn help(&self, thread: usize) {
        let mut seen = 0;
        loop {
            self.wait(|| self.generation.load(Ordering::Acquire) != seen);
            seen = seen.wrapping_add(1);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: `generation` grew and this helper has not lowered `busy`, so nobody writes the job.
            let job = self.job.with(|place| unsafe { (*place).clone() }).expect("a generation begins with a job");
            self.work(thread, &job);
            if self.busy.fetch_sub(1, Ordering::Release) == 1 {
                job.caller.unpark();
            }
        }
    }

    /// Takes tasks until there are none.
    fn work(&self, thread: usize, job: &Job) {
        let tasks = AssertUnwindSafe(|| {
            loop {
                let task = self.next_task.fetch_add(1, Ordering::Relaxed);
                if task >= job.tasks {
                    break;
                }
                (job.run)(thread, task);
            }
        });
        if let Err(panic) = catch_unwind(tasks) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until it is `done`; whoever makes it so unparks this thread.
    fn wait(&self, done: impl Fn() -> bool) {
        for _ in 0..self.spins {
            if done() {
                return;
            }
            spin_loop();
        }
        while !done() {
            thread::park();
        }
    }
}
