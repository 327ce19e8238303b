//! The callers: as many at once as there are streams, each with one call after the other.

use crate::calls::{Caller, Failure, call};
use crate::cases::Case;
use crate::heard::Heard;
use crate::lives::Life;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The most that a caller waits for an answer, whatever is done to the server meanwhile.
const HANG: Duration = Duration::from_secs(90);

/// How long a vanished caller keeps a connection of which it reads nothing.
const VANISHED: Duration = Duration::from_secs(15);

/// What a caller is to do next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Read as fast as it can.
    #[default]
    Read,
    /// Wait before each message, until the answer is over.
    Slow,
    /// Close the connection.
    Close,
    /// Read nothing more, and keep the connection.
    Vanish,
}

/// What became of the calls.
#[derive(Debug, Default)]
pub struct Tally {
    /// By what they ended with.
    pub ends: BTreeMap<&'static str, usize>,
    /// Tokens that came in parts, and were compared.
    pub tokens: usize,
    /// What must not be.
    pub violations: Vec<String>,
}

/// What callers and the one who disturbs them share.
pub struct Shared {
    cases: Vec<Case>,
    solo: Vec<Heard>,
    life: watch::Receiver<Life>,
    orders: Mutex<Vec<Order>>,
    over: AtomicBool,
    /// When a token has come.
    token: watch::Sender<Instant>,
    /// What became of the calls.
    pub tally: Mutex<Tally>,
}

/// The callers.
pub struct Callers {
    /// What they share.
    pub shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Callers {
    /// As many as there are cases, which are answered like this when nobody disturbs them.
    pub fn start(cases: Vec<Case>, solo: Vec<Heard>, life: watch::Receiver<Life>, random: &mut fastrand::Rng) -> Self {
        let orders = Mutex::new(vec![Order::Read; cases.len()]);
        let token = watch::Sender::new(Instant::now());
        let (over, tally) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { cases, solo, life, orders, over, token, tally });
        let task = |slot| tokio::spawn(slot_task(shared.clone(), slot, random.fork()));
        let tasks = (0..shared.cases.len()).map(task).collect();
        Self { shared, tasks }
    }

    /// Waits for the answers of the last calls.
    pub async fn stop(self) -> Arc<Shared> {
        self.shared.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no panic");
        }
        self.shared
    }
}

impl Shared {
    /// Tells some callers what to do.
    pub fn order(&self, count: usize, order: Order, random: &mut fastrand::Rng) {
        let mut orders = self.orders.lock().expect("no panic");
        for _ in 0..count {
            let slot = random.usize(..orders.len());
            orders[slot] = order;
        }
    }

    /// When the first token comes behind `since`.
    pub async fn next_token(&self, since: Instant) -> Instant {
        let mut token = self.token.subscribe();
        *token.wait_for(|at| *at > since).await.expect("this holds the sender")
    }
}

/// One caller within a call.
struct Slot<'a> {
    shared: &'a Shared,
    number: usize,
    slow: bool,
    /// It is gone, and its connection is there.
    vanished: bool,
}

impl Caller for Slot<'_> {
    async fn hears(&mut self, _heard: &Heard) -> bool {
        self.shared.token.send_replace(Instant::now());
        let order = std::mem::take(&mut self.shared.orders.lock().expect("no panic")[self.number]);
        self.slow |= order == Order::Slow;
        if self.slow {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        self.vanished = order == Order::Vanish;
        if self.vanished {
            tokio::time::sleep(VANISHED).await;
        }
        !self.vanished && order != Order::Close
    }
}

async fn slot_task(shared: Arc<Shared>, number: usize, mut random: fastrand::Rng) {
    let mut life = shared.life.clone();
    while !shared.over.load(Ordering::Relaxed) {
        let begun = *life.wait_for(|life| life.up).await.expect("the supervisor outlives the callers");
        let index = random.usize(..shared.cases.len());
        let deadline = (random.f32() < 0.15).then(|| Duration::from_millis(random.u64(100..2500)));
        let (mut heard, since) = (Heard::default(), Instant::now());
        let mut slot = Slot { shared: &shared, number, slow: false, vanished: false };
        let calling = call(&shared.cases[index], begun, deadline, &mut heard, &mut slot);
        let result = tokio::time::timeout(HANG, calling).await;
        // A server that is killed is marked as such before.
        let died = *life.borrow() != begun;
        let vanished = slot.vanished;
        let end = shared.judge(index, &heard, result, died, deadline.map(|deadline| since.elapsed() >= deadline));
        let mut tally = shared.tally.lock().expect("no panic");
        tally.tokens += heard.tokens();
        match end {
            Ok(end) => *tally.ends.entry(if vanished { "vanished" } else { end }).or_default() += 1,
            Err(violation) => tally.violations.push(format!("{violation}: {:?}", shared.cases[index])),
        }
    }
}

impl Shared {
    /// How a call ended, if it may end like that.
    fn judge(
        &self,
        index: usize,
        heard: &Heard,
        result: Result<Result<(), Failure>, tokio::time::error::Elapsed>,
        died: bool,
        late: Option<bool>,
    ) -> Result<&'static str, String> {
        let solo = &self.solo[index];
        if !heard.begins(solo) {
            return Err(format!("other than alone: {heard:?}, alone {solo:?}"));
        }
        match result {
            Err(_) => Err(format!("no end within {} s", HANG.as_secs())),
            Ok(Ok(())) if heard == solo => Ok("answered as alone"),
            Ok(Err(Failure::Left)) => Ok("closed by its caller"),
            Ok(Err(Failure::Deadline)) if late == Some(true) => Ok("its deadline"),
            Ok(Err(Failure::Lost(_) | Failure::Unavailable(_))) if died => Ok("the coordinator's death"),
            Ok(Ok(())) => Err(format!("an end before its time: {heard:?}, alone {solo:?}")),
            Ok(Err(failure)) => Err(format!("{failure}, after {} tokens", heard.tokens())),
        }
    }
}
