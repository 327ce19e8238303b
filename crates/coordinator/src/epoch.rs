//! One life of all ranks: from their start until one of them fails, or until they are told to end.

use crate::CoordinatorConfig;
use crate::Workers;
use crate::event::Sender;
use crate::fleet::{Change, Fleet, RankEvent, RankMemory, shortened};
use crate::idle_watch::IdleWatch;
use crate::load_watch::LoadWatch;
use crate::observer::Planned;
use crate::ranks::{self, RankLink, Started, Worker};
use crate::results::{Gathered, Results};
use crate::survivors::Survivors;
use crate::watchdog::{Sent, Watchdog};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use step::{StepPlan, StepResult};
use timeouts::StepTimeLimits;
use tokio::time::Instant;
use tracing::{error, info, warn};

/// How long it is listened for what other ranks say about a failure.
const FAILURE_GRACE: Duration = Duration::from_millis(300);

/// The most bytes of a failure's reason that callers get.
const REASON_BYTES_MAX: usize = 2048;

/// Where the ranks are.
enum Phase {
    /// With those that go on.
    Starting(BTreeMap<usize, Worker>),
    Loading(Vec<Worker>),
    Running(Vec<RankLink>),
    /// They have been told to end.
    Ending,
}

/// Why an epoch ended that nobody ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the ranks said, or what was seen of them.
    pub(crate) reason: String,
    /// Somebody has killed or stopped a rank: nothing that it ran is the cause.
    pub(crate) from_outside: bool,
}

/// A step that all ranks have answered.
pub(crate) struct Answered {
    pub(crate) planned: Planned,
    pub(crate) sent: Sent,
    /// How long it took.
    pub(crate) taken: Duration,
    pub(crate) gathered: Gathered,
}

/// All ranks, from their start to their end.
pub(crate) struct Epoch {
    number: u64,
    phase: Phase,
    fleet: Fleet,
    load: LoadWatch,
    results: Results,
    /// The steps that have been sent and not committed.
    planned: VecDeque<Planned>,
    watchdog: Watchdog,
    idle: IdleWatch,
    /// A rank that a step waits for is stopped, and the log says so.
    stopped: bool,
    /// Workers whose end has not been seen.
    alive: usize,
    /// Of these, those that are to go on in the next epoch.
    survivors: Survivors,
    /// How many were kept of the epoch before.
    kept: usize,
    /// When it fails, once a rank has.
    deadline: Option<Instant>,
    failure: Option<Failure>,
}

impl Epoch {
    /// How often [`Epoch::look`] must be called, and [`Epoch::watch`] while answers are waited for.
    pub(crate) const LOOK_EVERY: Duration = LoadWatch::ASK_EVERY;
    pub(crate) const WATCH_EVERY: Duration = Watchdog::ASK_EVERY;
    /// How long ranks may take to leave the others.
    pub(crate) const LEAVE_LIMIT: Duration = Duration::from_secs(10);

    /// One whose ranks are not started yet.
    pub(crate) fn new(number: u64, config: &CoordinatorConfig) -> Self {
        let limits = StepTimeLimits::of_coordinator(config.step_limit);
        Self {
            number,
            phase: Phase::Starting(BTreeMap::new()),
            fleet: Fleet::new(config.world, &[]),
            load: LoadWatch::new(config.load_limit),
            results: Results::new(config.world),
            planned: VecDeque::new(),
            watchdog: Watchdog::new(limits, config.pause_limit),
            idle: IdleWatch::new(config.step_limit, config.pause_limit),
            stopped: false,
            alive: 0,
            survivors: Survivors::default(),
            kept: 0,
            deadline: None,
            failure: None,
        }
    }

    /// The one that follows, with the workers that go on; none is started yet.
    pub(crate) fn next(mut self, config: &CoordinatorConfig) -> Self {
        let survivors = self.survivors.take();
        let kept: Vec<usize> = survivors.keys().copied().collect();
        Self {
            fleet: Fleet::new(config.world, &kept),
            kept: kept.len(),
            phase: Phase::Starting(survivors),
            ..Self::new(self.number + 1, config)
        }
    }

    /// Starts the ranks that are not there yet.
    pub(crate) async fn start(&mut self, config: &CoordinatorConfig, workers: &Workers, events: &Sender) {
        let Phase::Starting(kept) = std::mem::replace(&mut self.phase, Phase::Ending) else {
            unreachable!("an epoch begins once");
        };
        let Started { workers, failure } = ranks::start(config, workers, events, self.number, kept).await;
        self.alive = workers.len();
        self.phase = Phase::Loading(workers);
        if let Some(reason) = failure {
            self.fail_as_a_whole(&reason);
        }
    }

    /// The ids of the ranks' processes, while they load.
    pub(crate) fn pids(&self) -> Vec<Option<u32>> {
        match &self.phase {
            Phase::Loading(workers) => workers.iter().map(Worker::pid).collect(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_loading(&self) -> bool {
        matches!(self.phase, Phase::Loading(_)) && self.deadline.is_none()
    }

    /// Whether steps can be sent.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_)) && self.deadline.is_none()
    }

    /// Whether ranks have been sent what they have not answered.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_running() && (self.watchdog.is_waiting() || self.idle.is_waiting())
    }

    /// When [`Epoch::give_up`] is to be called, if a rank has failed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Workers whose end has not been seen, but for those that have left the others and go on.
    pub(crate) fn ending(&self) -> usize {
        self.alive - self.survivors.count()
    }

    /// Ranks that do not leave the others in time are killed.
    pub(crate) fn stop_waiting_for_survivors(&mut self) {
        self.survivors.give_up();
    }

    /// How many ranks have kept their weights, and how many bytes the others have read.
    pub(crate) fn kept_and_read(&self) -> (usize, u64) {
        (self.kept, self.fleet.read_bytes())
    }

    /// Bytes read and to be read, over all ranks.
    pub(crate) fn progress(&self) -> (u64, u64) {
        self.fleet.progress()
    }

    /// Why it has failed, once.
    pub(crate) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Hears of a rank. Returns what each holds when that was the last one to become ready.
    pub(crate) fn on_rank(&mut self, rank: usize, event: RankEvent) -> Option<Vec<RankMemory>> {
        self.alive -= usize::from(matches!(event, RankEvent::Exited { .. }));
        if matches!(self.phase, Phase::Ending) {
            match event {
                RankEvent::Exited { .. } => self.survivors.on_exit(rank),
                RankEvent::Left(left) => self.survivors.on_left(rank, left),
                _ => {}
            }
            return None;
        }
        match self.fleet.on(rank, event) {
            Change::None => {}
            Change::AllReady => return Some(self.run()),
            Change::Failed => self.deadline = Some(Instant::now() + FAILURE_GRACE),
        }
        if self.fleet.killed() {
            // Nobody knows more about it.
            self.give_up();
        }
        None
    }

    /// Opens the streams of steps.
    fn run(&mut self) -> Vec<RankMemory> {
        let Phase::Loading(workers) = std::mem::replace(&mut self.phase, Phase::Ending) else {
            unreachable!("ranks become ready once");
        };
        self.phase = Phase::Running(workers.into_iter().map(Worker::run).collect());
        self.fleet.memory().expect("all ranks are ready")
    }

    /// Sends a step to all ranks. `begun` is when it began to be planned; returns when it was sent.
    pub(crate) fn send(&mut self, plan: &StepPlan, begun: Instant, traced: Vec<step::SeqId>) -> Instant {
        let Phase::Running(links) = &self.phase else { unreachable!("steps are planned for ranks that run") };
        self.idle.busy();
        let command = wire::plan_to_wire(plan);
        self.watchdog.sent(plan, Instant::now());
        for link in links {
            // A rank that is gone reports it itself.
            let _ = link.commands.send(command.clone());
        }
        let end = Instant::now();
        self.planned.push_back(Planned::new(plan, end - begun, traced));
        end
    }

    /// A rank has answered the next step that it was sent.
    pub(crate) fn on_result(&mut self, rank: usize, result: StepResult) {
        if self.is_running() && self.results.of(rank) == self.planned.len() {
            self.fail_as_a_whole(&format!("rank {rank} has answered step {}, which it was not sent", result.step));
        }
        self.results.push(rank, result);
    }

    /// The oldest step, once all ranks have answered it. Ranks that disagree have failed.
    pub(crate) fn next_answered(&mut self) -> Option<Answered> {
        if !self.is_running() {
            return None;
        }
        let gathered = self.results.next()?.map(|gathered| {
            let (sent, taken) = self.watchdog.answered(Instant::now()).expect("only steps that were sent are answered");
            let planned = self.planned.pop_front().expect("the same");
            Answered { planned, sent, taken, gathered }
        });
        gathered.map_err(|reason| self.fail_as_a_whole(&reason)).ok()
    }

    /// A rank that had nothing to do has answered.
    pub(crate) fn on_pong(&mut self, rank: usize) {
        self.idle.answered(rank, Instant::now());
    }

    /// Looks whether a load goes on, and asks ranks that have nothing to do whether they are there.
    pub(crate) fn look(&mut self) {
        match &self.phase {
            Phase::Loading(_) if self.deadline.is_none() => self.watch_load(),
            Phase::Running(links) if !self.watchdog.is_waiting() && self.idle.is_due(links.len(), Instant::now()) => {
                links.iter().for_each(|link| link.worker.ping());
            }
            _ => {}
        }
    }

    fn watch_load(&mut self) {
        let (Phase::Loading(workers), Some(idle)) = (&self.phase, self.load.late(self.fleet.mark())) else { return };
        let silent = workers.iter().enumerate().filter(|&(rank, _)| self.fleet.is_loading(rank));
        let (seconds, silent) = (idle.as_secs(), seen(silent));
        let reason = format!("the load has made no progress for {seconds} s (--load-timeout); not ready: {silent}");
        self.fail(&reason, false);
    }

    /// Looks whether some rank has not answered in time: the oldest step, or that it is there.
    pub(crate) fn watch(&mut self) {
        if !self.is_running() {
            return;
        }
        if self.watchdog.is_waiting() {
            self.watch_step();
        } else if self.idle.is_waiting() {
            self.watch_idle();
        }
    }

    fn watch_step(&mut self) {
        let Phase::Running(links) = &self.phase else { return };
        let silent = || links.iter().enumerate().filter(|&(rank, _)| self.results.is_missing(rank));
        let is_stopped = || silent().any(|(_, link)| link.worker.is_stopped());
        let late = self.watchdog.late(Instant::now(), is_stopped);
        let sees_stopped = self.watchdog.sees_stopped();
        // This is asked after each event, and nearly always all is well.
        if late.is_some() || sees_stopped != self.stopped {
            let silent: Vec<_> = silent().map(|(rank, _)| rank).collect();
            let late = late.map(|(Sent { step, rows, .. }, after)| (format!("step {step} of {rows} rows"), after));
            self.judge(late, &silent, sees_stopped);
        }
    }

    fn watch_idle(&mut self) {
        let Phase::Running(links) = &self.phase else { return };
        let silent: Vec<_> = (0..links.len()).filter(|&rank| self.idle.is_missing(rank)).collect();
        let is_stopped = || silent.iter().any(|&rank| links[rank].worker.is_stopped());
        let late =
            self.idle.late(Instant::now(), is_stopped).map(|after| ("a rank with nothing to do".to_owned(), after));
        self.judge(late, &silent, self.idle.sees_stopped());
    }

    /// What follows from it that these ranks have not answered: nothing, unless it is `late`.
    fn judge(&mut self, late: Option<(String, Duration)>, silent: &[usize], sees_stopped: bool) {
        let Phase::Running(links) = &self.phase else { return };
        match (std::mem::replace(&mut self.stopped, sees_stopped), sees_stopped) {
            (false, true) => {
                let stopped = silent.iter().filter(|&&rank| links[rank].worker.is_stopped());
                warn!("stopped by a signal, and waited for: ranks {:?}", stopped.collect::<Vec<_>>());
            }
            (true, false) => info!("no rank is stopped any more"),
            _ => {}
        }
        if let Some((what, after)) = late {
            let (seconds, silent) = (after.as_secs_f32(), seen(silent.iter().map(|&rank| (rank, &links[rank].worker))));
            self.fail(&format!("{what}: no answer within {seconds:.1} s from {silent}"), sees_stopped);
        }
    }

    /// A rank has failed, and what others say about it has been heard.
    pub(crate) fn give_up(&mut self) {
        self.fail(&self.fleet.reason(), self.fleet.killed());
    }

    /// Ends it with a failure.
    pub(crate) fn fail(&mut self, reason: &str, from_outside: bool) {
        if matches!(self.phase, Phase::Ending) {
            return;
        }
        error!("the ranks have failed: {reason}");
        // Callers are told of it in a header.
        self.failure = Some(Failure { reason: shortened(reason, REASON_BYTES_MAX), from_outside });
        for worker in self.take_workers() {
            match worker.rank().filter(|&rank| self.fleet.is_sound(rank) && !worker.is_stopped()) {
                Some(rank) => self.survivors.ask(rank, worker),
                None => worker.kill(),
            }
        }
    }

    /// Ends it with a failure of which nobody knows whose it is: no rank goes on.
    pub(crate) fn fail_as_a_whole(&mut self, reason: &str) {
        self.fleet.trust_nobody();
        self.fail(reason, false);
    }

    /// Tells all workers to end, and kills them if that must be `now`.
    pub(crate) fn end(&mut self, now: bool) {
        self.survivors.kill();
        let workers = self.take_workers();
        if now {
            workers.into_iter().for_each(Worker::kill);
        }
    }

    /// All that have not been told to end, or to leave. It ends.
    fn take_workers(&mut self) -> Vec<Worker> {
        self.deadline = None;
        self.planned.clear();
        match std::mem::replace(&mut self.phase, Phase::Ending) {
            Phase::Starting(workers) => workers.into_values().collect(),
            Phase::Loading(workers) => workers,
            Phase::Running(links) => links.into_iter().map(|link| link.worker).collect(),
            Phase::Ending => Vec::new(),
        }
    }
}

/// What can be told of ranks without asking them.
fn seen<'a>(ranks: impl Iterator<Item = (usize, &'a Worker)>) -> String {
    ranks.map(|(rank, worker)| format!("rank {rank} {}", worker.seen())).collect::<Vec<_>>().join(", ")
}
