//! The one thread that owns the device.

use crate::load::{LoadError, LoadProgress, Loaded, StepRunner};
use backend::{BackendError, Leaver};
use forward::StepError;
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

/// What a rank that is ready says.
#[derive(Clone)]
pub(crate) struct ReadyInfo {
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes: u64,
    pub(crate) checksums: Vec<TensorChecksum>,
    /// See [`Loaded::leaver`].
    pub(crate) leaver: Option<Leaver>,
}

/// Why the device could not do what it was asked.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: String,
    /// Another rank is missed. This one is sound: it can leave the others and rejoin them, if it can do so at all.
    pub(crate) by_others: bool,
}

pub(crate) type Answer<T> = Result<T, Fault>;

/// What the thread that runs steps is asked to do.
pub(crate) enum Work {
    Run(Command),
    /// Say that it came by.
    Ping(oneshot::Sender<()>),
}

/// What the thread is asked to do, once it is loaded; one after the other.
pub(crate) enum Order {
    /// To do work, in order, until there is no more. The coordinator has two plans or one ping under way at most, so no more wait here.
    Run {
        work: mpsc::UnboundedReceiver<Work>,
        /// In the order of the plans, and no more than there are plans under way. The last one is an error if the device
        /// failed, or if another rank did.
        results: mpsc::UnboundedSender<Answer<StepResult>>,
    },
    /// To leave the other ranks.
    Leave(oneshot::Sender<Answer<()>>),
    /// To rejoin them.
    Rejoin(oneshot::Sender<Answer<ReadyInfo>>),
}

/// The way to the thread that owns the device.
pub(crate) struct DeviceThread {
    pub(crate) progress: Arc<LoadProgress>,
    /// The outcome of the load.
    pub(crate) ready: oneshot::Receiver<Answer<ReadyInfo>>,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
}

impl DeviceThread {
    /// Starts the thread of rank `rank`. It ends when the orders do, or when the device fails, of which `failed` hears, too.
    ///
    /// # Errors
    ///
    /// The system's, where no thread can be started.
    pub(crate) fn start(rank: usize, open: Open, failed: oneshot::Sender<String>) -> io::Result<Self> {
        let progress = Arc::new(LoadProgress::new());
        let (ready_to, ready) = oneshot::channel();
        let (orders, orders_from) = mpsc::unbounded_channel();
        let thread_progress = progress.clone();
        let body = move || {
            let (mut runner, info) = match guarded(|| open(&thread_progress)) {
                Ok(Loaded { runner, weight_bytes, kv_bytes, checksums, leaver }) => {
                    (runner, ReadyInfo { weight_bytes, kv_bytes, checksums, leaver })
                }
                Err(fault) => return drop(ready_to.send(Err(fault))),
            };
            // Nobody listens once the connection is gone, and then the process ends.
            let _ = ready_to.send(Ok(info.clone()));
            if let Err(error) = obey(&mut *runner, &info, orders_from) {
                // What it owns is not released: that would wait for what hangs.
                std::mem::forget(runner);
                let _ = failed.send(error);
            }
        };
        std::thread::Builder::new().name(format!("device-{rank}")).spawn(body)?;
        Ok(Self { progress, ready, orders })
    }
}

/// Does what it is asked, until there are no more orders, or until the device fails.
fn obey(
    runner: &mut dyn StepRunner,
    info: &ReadyInfo,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    // Whose connection is gone, does not listen; then the process ends.
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Run { work, results } => {
                let Err(fault) = run(runner, work, &results) else { continue };
                let fatal = own_error(&fault, info);
                let _ = results.send(Err(fault));
                fatal?;
            }
            Order::Leave(done) => answer(guarded(|| runner.leave()), done, info)?,
            Order::Rejoin(done) => answer(guarded(|| runner.rejoin()).map(|()| info.clone()), done, info)?,
        }
    }
    Ok(())
}

fn answer<T>(outcome: Answer<T>, done: oneshot::Sender<Answer<T>>, info: &ReadyInfo) -> Result<(), String> {
    let fatal = outcome.as_ref().map_or_else(|fault| own_error(fault, info), |_| Ok(()));
    let _ = done.send(outcome);
    fatal
}

/// The fault as an error, if nothing can follow it.
fn own_error(fault: &Fault, info: &ReadyInfo) -> Result<(), String> {
    if fault.by_others && info.leaver.is_some() { Ok(()) } else { Err(fault.error.clone()) }
}

/// Runs plan after plan, until there are no more or one fails. While the device works on a step, the next is begun, as far
/// as the rank can.
fn run(
    runner: &mut dyn StepRunner,
    mut work: mpsc::UnboundedReceiver<Work>,
    results: &mpsc::UnboundedSender<Answer<StepResult>>,
) -> Answer<()> {
    let in_flight_max = runner.steps_in_flight_max();
    let (mut queue, mut in_flight, mut backoff) = (Queue::default(), 0, Backoff::default());
    loop {
        if in_flight < in_flight_max
            && let Some(plan) = queue.pop()
        {
            let step = plan.step;
            let begun = guarded(|| runner.begin(plan, &queue.masks));
            queue.masks.retain(|mask| mask.step > step);
            begun?;
            in_flight += 1;
        } else if in_flight == 0 {
            match work.blocking_recv() {
                Some(work) => queue.push(work),
                None => return Ok(()),
            }
            continue;
        }
        match guarded(|| runner.poll())? {
            Some(result) => {
                in_flight -= 1;
                backoff = Backoff::default();
                if results.send(Ok(result)).is_err() {
                    return Ok(());
                }
            }
            None => match work.try_recv() {
                Ok(work) => queue.push(work),
                Err(TryRecvError::Empty) => backoff.wait(),
                Err(TryRecvError::Disconnected) => return Ok(()),
            },
        }
    }
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
fn guarded<T, E: Into<Fault>>(work: impl FnOnce() -> Result<T, E>) -> Answer<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(E::into),
        Err(panic) => Err(Fault { error: format!("panicked: {}", panic_text(&*panic)), by_others: false }),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        Self { error: error.to_string(), by_others: false }
    }
}

impl From<StepError> for Fault {
    fn from(error: StepError) -> Self {
        Self { by_others: error.is_by_others(), error: error.to_string() }
    }
}

impl From<BackendError> for Fault {
    fn from(error: BackendError) -> Self {
        Self { by_others: error.is_by_others(), error: error.to_string() }
    }
}
