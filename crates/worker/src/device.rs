//! The one thread that owns the device.

use crate::load::{LoadError, LoadProgress, Loaded, StepRunner};
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use step::{Command, SampleMask, StepPlan, StepResult};
use timeouts::Backoff;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use weights::TensorChecksum;

/// Opens and loads the device, on the thread that will own it.
pub(crate) type Open = Box<dyn FnOnce(&LoadProgress) -> Result<Loaded, LoadError> + Send>;

/// What a load that succeeded says.
#[derive(Debug)]
pub(crate) struct ReadyInfo {
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes: u64,
    pub(crate) checksums: Vec<TensorChecksum>,
}

/// What the thread that owns the device is asked to do.
pub(crate) enum Work {
    Run(Command),
    /// Say that it came by.
    Ping(oneshot::Sender<()>),
}

/// The way to the thread that owns the device.
pub(crate) struct DeviceThread {
    pub(crate) progress: Arc<LoadProgress>,
    /// The outcome of the load.
    pub(crate) ready: oneshot::Receiver<Result<ReadyInfo, String>>,
    /// Work, done in order. The coordinator has two plans or one ping under way at most, so no more wait here.
    pub(crate) work: mpsc::UnboundedSender<Work>,
    /// Results, in the order of the plans, and no more than there are plans under way. The last one is an error if the device
    /// failed.
    pub(crate) results: mpsc::UnboundedReceiver<Result<StepResult, String>>,
}

impl DeviceThread {
    /// Starts the thread of rank `rank`. It ends when the commands do, or with the first error, of which `failed` hears, too.
    ///
    /// # Errors
    ///
    /// The system's, where no thread can be started.
    pub(crate) fn start(rank: usize, open: Open, failed: oneshot::Sender<String>) -> io::Result<Self> {
        let progress = Arc::new(LoadProgress::new());
        let (ready_to, ready) = oneshot::channel();
        let (work, work_from) = mpsc::unbounded_channel();
        let (results_to, results) = mpsc::unbounded_channel();
        let thread_progress = progress.clone();
        let body = move || {
            let loaded = guarded(|| open(&thread_progress).map_err(|error| error.to_string()));
            let (info, runner) = match loaded {
                Ok(Loaded { runner, weight_bytes, kv_bytes, checksums }) => {
                    (Ok(ReadyInfo { weight_bytes, kv_bytes, checksums }), Some(runner))
                }
                Err(error) => (Err(error), None),
            };
            // Nobody listens once the connection is gone, and then the process ends.
            let _ = ready_to.send(info);
            if let Some(runner) = runner {
                run(runner, work_from, &results_to, failed);
            }
        };
        std::thread::Builder::new().name(format!("device-{rank}")).spawn(body)?;
        Ok(Self { progress, ready, work, results })
    }
}

/// Runs plan after plan, until there are no more or one fails. While the device works on a step, the next is begun, as far
/// as the rank can.
fn run(
    mut runner: Box<dyn StepRunner>,
    mut work: mpsc::UnboundedReceiver<Work>,
    results: &mpsc::UnboundedSender<Result<StepResult, String>>,
    failed: oneshot::Sender<String>,
) {
    let in_flight_max = runner.steps_in_flight_max();
    let (mut queue, mut in_flight, mut backoff) = (Queue::default(), 0, Backoff::default());
    loop {
        if in_flight < in_flight_max
            && let Some(plan) = queue.pop()
        {
            let step = plan.step;
            let begun = guarded(|| runner.begin(plan, &queue.masks).map_err(|error| error.to_string()));
            queue.masks.retain(|mask| mask.step > step);
            if let Err(error) = begun {
                return fail(runner, &error, results, failed);
            }
            in_flight += 1;
        } else if in_flight == 0 {
            match work.blocking_recv() {
                Some(work) => queue.push(work),
                None => return,
            }
            continue;
        }
        match guarded(|| runner.poll().map_err(|error| error.to_string())) {
            Ok(Some(result)) => {
                in_flight -= 1;
                backoff = Backoff::default();
                if results.send(Ok(result)).is_err() {
                    return;
                }
            }
            Ok(None) => match work.try_recv() {
                Ok(work) => queue.push(work),
                Err(TryRecvError::Empty) => backoff.wait(),
                Err(TryRecvError::Disconnected) => return,
            },
            Err(error) => return fail(runner, &error, results, failed),
        }
    }
}

/// Reports the device's end. What it owns is not released: that would wait for what hangs.
fn fail(
    runner: Box<dyn StepRunner>,
    error: &str,
    results: &mpsc::UnboundedSender<Result<StepResult, String>>,
    failed: oneshot::Sender<String>,
) {
    std::mem::forget(runner);
    // Nobody listens once the connection is gone, and then the process ends.
    let _ = results.send(Err(error.to_owned()));
    let _ = failed.send(error.to_owned());
}

/// Plans that have not been begun, and masks for them.
#[derive(Default)]
struct Queue {
    plans: VecDeque<StepPlan>,
    /// They follow the plan that waits for them, and may come behind a later plan, which was sent ahead.
    masks: Vec<SampleMask>,
}

impl Queue {
    fn push(&mut self, work: Work) {
        match work {
            Work::Run(Command::Plan(plan)) => self.plans.push_back(plan),
            Work::Run(Command::Mask(mask)) => self.masks.push(mask),
            // Who asked may be gone.
            Work::Ping(answer) => drop(answer.send(())),
        }
    }

    /// The next plan, if nothing is missing for it.
    fn pop(&mut self) -> Option<StepPlan> {
        self.plans.pop_front_if(|plan| has_masks(plan, &self.masks))
    }
}

fn has_masks(plan: &StepPlan, masks: &[SampleMask]) -> bool {
    let masked = plan.runs.iter().filter(|run| run.masked);
    masked.map(|run| run.seq).all(|seq| masks.iter().any(|mask| mask.step == plan.step && mask.seq == seq))
}

/// A panic on the device thread is reported like an error: the coordinator must hear of it.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
