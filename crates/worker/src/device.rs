//! The one thread that owns the device.

use crate::load::{LoadError, LoadProgress, Loaded, Rank};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use step::{SampleMask, StepPlan, StepResult};
use tokio::sync::{mpsc, oneshot};
use wire::Command;

/// Opens and loads the device, on the thread that will own it.
pub(crate) type Open = Box<dyn FnOnce(&LoadProgress) -> Result<Loaded, LoadError> + Send>;

/// What a load that succeeded says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadyInfo {
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes: u64,
}

/// The way to the device thread.
pub(crate) struct Device {
    pub(crate) progress: Arc<LoadProgress>,
    /// The outcome of the load.
    pub(crate) ready: oneshot::Receiver<Result<ReadyInfo, String>>,
    /// Commands, run in order.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    /// Results, in the order of the plans. The last one is an error if the device failed.
    pub(crate) results: mpsc::UnboundedReceiver<Result<StepResult, String>>,
}

impl Device {
    /// Starts the thread of rank `rank`. It ends when the commands do, or with the first error.
    pub(crate) fn start(rank: usize, open: Open) -> Self {
        let progress = Arc::new(LoadProgress::new());
        let (ready_to, ready) = oneshot::channel();
        let (commands, commands_from) = mpsc::unbounded_channel();
        let (results_to, results) = mpsc::unbounded_channel();
        let thread_progress = progress.clone();
        let body = move || {
            let loaded = guarded(|| open(&thread_progress).map_err(|error| error.to_string()));
            let (info, rank) = match loaded {
                Ok(Loaded { rank, weight_bytes, kv_bytes }) => (Ok(ReadyInfo { weight_bytes, kv_bytes }), Some(rank)),
                Err(error) => (Err(error), None),
            };
            // Nobody listens once the connection is gone, and then the process ends.
            let _ = ready_to.send(info);
            if let Some(rank) = rank {
                run(rank, commands_from, &results_to);
            }
        };
        std::thread::Builder::new()
            .name(format!("device-{rank}"))
            .spawn(body)
            .expect("a process that has just started can start a thread");
        Self { progress, ready, commands, results }
    }
}

/// Runs plan after plan, until there are no more or one fails.
fn run(
    mut rank: Box<dyn Rank>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    results: &mpsc::UnboundedSender<Result<StepResult, String>>,
) {
    // Masks follow the plan that waits for them, and may come behind a later plan, which was sent ahead.
    let mut plans: VecDeque<StepPlan> = VecDeque::new();
    let mut masks: Vec<SampleMask> = Vec::new();
    loop {
        if let Some(plan) = plans.pop_front_if(|plan| has_masks(plan, &masks)) {
            let step = plan.step;
            let result = guarded(|| rank.step(plan, &masks).map_err(|error| error.to_string()));
            masks.retain(|mask| mask.step > step);
            let failed = result.is_err();
            if results.send(result).is_err() || failed {
                return;
            }
            continue;
        }
        match commands.blocking_recv() {
            Some(Command::Plan(plan)) => plans.push_back(plan),
            Some(Command::Mask(mask)) => masks.push(mask),
            None => return,
        }
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
