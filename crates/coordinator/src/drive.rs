//! The loop that leads all ranks.

use crate::fleet::{Change, Fleet, RankEvent, Status};
use crate::generation::Update;
use crate::local::LocalWorker;
use crate::process::{WorkerProcess, load_request};
use crate::watchdog::{Sent, Watchdog};
use crate::{Activity, CoordinatorConfig, ProcessConfig, Workers};
use scheduler::{ItlController, Occupancy, Scheduler, SchedulerConfig, Submission};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use step::{SeqId, StepResult};
use timeouts::StepTimeLimits;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};
use wire::control as pb;

/// How long the loop listens for what other ranks say about a failure before it ends the epoch.
const FAILURE_GRACE: Duration = Duration::from_millis(300);

/// How long the loop waits for processes to end that have been told to. They are killed long before.
const END_LIMIT: Duration = Duration::from_secs(15);

/// Everything that the loop reacts to.
pub(crate) enum Event {
    Submit { seq: SeqId, submission: Submission, updates: mpsc::UnboundedSender<Update> },
    Abort(SeqId),
    Drain,
    Stop,
    Rank { rank: usize, event: RankEvent },
    Result { rank: usize, result: StepResult },
}

/// Sends events; a loop that has ended does not care.
#[derive(Clone)]
pub(crate) struct Sender(mpsc::UnboundedSender<Event>);

impl Sender {
    pub(crate) fn send(&self, event: Event) {
        let _ = self.0.send(event);
    }

    pub(crate) fn rank(&self, rank: usize, event: RankEvent) {
        self.send(Event::Rank { rank, event });
    }
}

/// Where the epoch is.
enum Phase {
    Loading(Vec<Worker>),
    Running(Vec<RankLink>),
    /// Nothing is planned any more. The processes have been told to end.
    Ending,
}

/// One rank, and the means to end it. Dropping it lets it end by itself.
enum Worker {
    Process(WorkerProcess),
    Local(LocalWorker),
}

/// Commands to one rank.
struct RankLink {
    commands: mpsc::UnboundedSender<pb::WorkerCommand>,
    worker: Worker,
}

impl Worker {
    /// Opens its stream of steps.
    fn run(mut self, events: Sender) -> RankLink {
        let commands = match &mut self {
            Self::Process(process) => process.run(events),
            Self::Local(local) => local.run(),
        };
        RankLink { commands, worker: self }
    }

    fn kill(self) {
        match self {
            Self::Process(process) => process.kill(),
            Self::Local(local) => local.kill(),
        }
    }

    /// Whether a signal has stopped its process.
    fn is_stopped(&self) -> bool {
        match self {
            Self::Process(process) => process.is_stopped(),
            Self::Local(_) => false,
        }
    }

    /// What can be told of it without asking it.
    fn seen(&self) -> String {
        match self {
            Self::Process(process) => process.seen(),
            Self::Local(_) => String::new(),
        }
    }
}

/// The loop's state.
pub(crate) struct Driver {
    config: CoordinatorConfig,
    events: Sender,
    status: watch::Sender<Status>,
    activity: watch::Sender<Activity>,
    phase: Phase,
    fleet: Fleet,
    scheduler: Scheduler,
    callers: HashMap<SeqId, mpsc::UnboundedSender<Update>>,
    /// Results of each rank that wait for those of the others.
    results: Vec<VecDeque<StepResult>>,
    watchdog: Watchdog,
    /// A rank that a step waits for is stopped, and the log says so.
    stopped: bool,
    /// Bounds the time of steps, if that is asked for.
    itl: Option<ItlController>,
    /// Nothing has happened since the scheduler was checked.
    checked: bool,
    /// Workers whose end has not been seen.
    alive: usize,
    draining: bool,
    /// When the epoch ends, once a rank has failed.
    deadline: Option<Instant>,
}

impl Driver {
    pub(crate) fn new(
        config: CoordinatorConfig,
        events: mpsc::UnboundedSender<Event>,
        status: watch::Sender<Status>,
        activity: watch::Sender<Activity>,
    ) -> Self {
        let mut scheduler = Scheduler::new(SchedulerConfig {
            blocks: config.kv_blocks,
            step_rows_max: config.step_rows_max,
            sequences_max: config.sequences_max,
            steps_in_flight_max: config.steps_in_flight_max,
            prefix_cache: config.prefix_cache,
        });
        let itl = config.itl_bound.map(|bound| ItlController::new(micros(bound), config.step_rows_max));
        if let Some(itl) = &itl {
            scheduler.limit_prompt_rows(itl.prompt_rows());
        }
        Self {
            events: Sender(events),
            status,
            activity,
            phase: Phase::Loading(Vec::new()),
            fleet: Fleet::new(config.world),
            scheduler,
            callers: HashMap::new(),
            results: vec![VecDeque::new(); config.world],
            watchdog: Watchdog::new(StepTimeLimits::of_coordinator(config.step_limit), config.pause_limit),
            stopped: false,
            itl,
            checked: true,
            alive: 0,
            draining: false,
            deadline: None,
            config,
        }
    }

    /// Runs until every process has ended.
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>, workers: Workers) {
        // It must live as long as the ranks do.
        let _processes = match workers {
            Workers::Processes(processes) => {
                self.start_processes(&processes).await;
                Some(processes)
            }
            Workers::Local(ranks) => {
                self.start_local(ranks);
                None
            }
        };
        while !matches!(self.phase, Phase::Ending) {
            tokio::select! {
                // An answer that is there is not late.
                biased;
                event = events.recv() => self.on(event.expect("the loop itself holds a sender")),
                () = sleep_until(self.deadline) => self.fail(self.fleet.reason()),
                () = tokio::time::sleep(Watchdog::ASK_EVERY), if self.watchdog.is_waiting() => {}
            }
            while let Ok(event) = events.try_recv() {
                self.on(event);
            }
            self.watch();
            self.pump();
        }
        let ended = async {
            while self.alive > 0 {
                self.on(events.recv().await.expect("the loop itself holds a sender"));
            }
        };
        if tokio::time::timeout(END_LIMIT, ended).await.is_err() {
            error!("{} worker processes have not ended", self.alive);
        }
    }

    /// Starts all processes and asks them to load.
    async fn start_processes(&mut self, config: &ProcessConfig) {
        let mut processes = Vec::new();
        let mut failure = None;
        for rank in 0..self.config.world {
            match WorkerProcess::start(config, rank, self.config.world, self.events.clone()).await {
                Ok(process) => processes.push(process),
                Err(error) => {
                    failure = Some(format!("rank {rank}: {error}"));
                    break;
                }
            }
            self.alive += 1;
        }
        for (rank, process) in processes.iter().enumerate().filter(|_| failure.is_none()) {
            process.load(load_request(&self.config, config, rank), self.events.clone());
        }
        self.phase = Phase::Loading(processes.into_iter().map(Worker::Process).collect());
        if let Some(reason) = failure {
            self.fail(reason);
        }
    }

    fn start_local(&mut self, ranks: Vec<crate::LocalRank>) {
        assert_eq!(ranks.len(), self.config.world, "a rank for each of the tensor-parallel degree");
        self.alive = ranks.len();
        let ranks = ranks.into_iter().enumerate();
        let workers: Vec<_> = ranks.map(|(rank, body)| LocalWorker::new(rank, body, self.events.clone())).collect();
        workers.iter().for_each(|worker| worker.load(&self.events));
        self.phase = Phase::Loading(workers.into_iter().map(Worker::Local).collect());
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Submit { seq, submission, updates } => self.submit(seq, submission, updates),
            Event::Abort(seq) => {
                // Most have ended by themselves.
                if self.callers.remove(&seq).is_some() {
                    self.scheduler.abort(seq);
                }
            }
            Event::Drain => self.drain(),
            Event::Stop => self.end(Status::Stopped, true),
            Event::Rank { rank, event } => self.on_rank(rank, event),
            Event::Result { rank, result } => {
                self.results[rank].push_back(result);
                self.gather();
            }
        }
    }

    fn on_rank(&mut self, rank: usize, event: RankEvent) {
        if matches!(event, RankEvent::Exited { .. }) {
            self.alive -= 1;
        }
        if matches!(self.phase, Phase::Ending) {
            return;
        }
        match self.fleet.on(rank, event) {
            Change::None => {}
            Change::AllReady => return self.ready(),
            Change::Failed => self.deadline = Some(Instant::now() + FAILURE_GRACE),
        }
        if matches!(self.phase, Phase::Loading(_)) {
            let (done, total) = self.fleet.progress();
            self.status.send_replace(Status::Loading { done, total });
        }
    }

    /// Opens the streams of steps.
    fn ready(&mut self) {
        let Phase::Loading(workers) = std::mem::replace(&mut self.phase, Phase::Ending) else {
            unreachable!("ranks become ready once");
        };
        self.phase = Phase::Running(workers.into_iter().map(|worker| worker.run(self.events.clone())).collect());
        let memory = self.fleet.memory().expect("all ranks are ready");
        self.status.send_replace(Status::Ready { memory });
    }

    fn submit(&mut self, seq: SeqId, submission: Submission, updates: mpsc::UnboundedSender<Update>) {
        if matches!(self.phase, Phase::Ending) {
            // The caller saw the status of a moment ago. Without an update its stream just ends.
            if let Status::Failed { reason } = &*self.status.borrow() {
                let _ = updates.send(Update::Failed { reason: reason.clone() });
            }
            return;
        }
        match self.scheduler.submit(seq, submission) {
            Ok(()) => {
                self.callers.insert(seq, updates);
            }
            // The caller may be gone.
            Err(error) => drop(updates.send(Update::Failed { reason: error.to_string() })),
        }
    }

    fn drain(&mut self) {
        match self.phase {
            Phase::Running(_) if !self.draining => {
                self.draining = true;
                self.status.send_replace(Status::Draining);
            }
            Phase::Loading(_) => self.end(Status::Stopped, true),
            _ => {}
        }
    }

    /// Sends as many plans as there may be in flight; ends when there is nothing left to finish.
    fn pump(&mut self) {
        let Phase::Running(links) = &self.phase else { return };
        if self.deadline.is_some() {
            return;
        }
        while let Some(plan) = self.scheduler.plan() {
            let command = wire::plan_to_wire(&plan);
            self.watchdog.sent(&plan, Instant::now());
            for link in links {
                // A rank that is gone reports it itself.
                let _ = link.commands.send(command.clone());
            }
        }
        let activity = Activity { load: self.scheduler.load(), totals: self.scheduler.totals() };
        self.activity.send_if_modified(|last| std::mem::replace(last, activity) != activity);
        if self.scheduler.is_idle() {
            self.on_idle();
        } else {
            self.checked = false;
        }
    }

    /// Nothing waits, and nothing runs.
    fn on_idle(&mut self) {
        if (self.config.check_invariants || cfg!(debug_assertions)) && !std::mem::replace(&mut self.checked, true) {
            self.scheduler.check();
            assert!(self.callers.is_empty(), "a caller waits for nothing");
        }
        if self.draining {
            self.end(Status::Stopped, false);
        }
    }

    /// The oldest step has been answered: what its time says for those that follow.
    fn measure(&mut self) {
        let Some((sent, taken)) = self.watchdog.answered(Instant::now()) else { return };
        if let Some(itl) = self.itl.as_mut().filter(|_| sent.rows > sent.prompt_rows) {
            itl.observe(sent.prompt_rows, micros(taken));
            self.scheduler.limit_prompt_rows(itl.prompt_rows());
        }
    }

    /// Commits every step of which all ranks have sent the result.
    fn gather(&mut self) {
        let goes_on = |driver: &Self| driver.deadline.is_none() && matches!(driver.phase, Phase::Running(_));
        while goes_on(self) && self.results.iter().all(|results| !results.is_empty()) {
            let mut results = self.results.iter_mut().map(|results| results.pop_front().expect("seen above"));
            let first = results.next().expect("there is a rank 0");
            let others: Vec<_> = results.collect();
            self.measure();
            let differs = others.iter().position(|other| !same_choices(&first, other));
            if let Some(index) = differs {
                let reason = format!("step {}: rank {} chose other tokens than rank 0", first.step, index + 1);
                return self.fail(reason);
            }
            match self.scheduler.commit(first) {
                Ok(events) => events.into_iter().for_each(|event| self.deliver(event)),
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    fn deliver(&mut self, event: scheduler::Event) {
        let (seq, update, last) = match event {
            scheduler::Event::Started { seq, cached_tokens } => (seq, Update::Started { cached_tokens }, false),
            scheduler::Event::PromptLogprobs { seq, logprobs } => (seq, Update::PromptLogprobs(logprobs), false),
            scheduler::Event::Token { seq, sample, finish } => {
                (seq, Update::Token { sample, finish }, finish.is_some())
            }
        };
        if let Some(updates) = self.callers.get(&seq) {
            // A caller that is gone has sent an abort.
            let _ = updates.send(update);
        }
        if last {
            self.callers.remove(&seq);
        }
    }

    /// Looks whether some rank has not answered the oldest step in time.
    fn watch(&mut self) {
        let (Phase::Running(links), None) = (&self.phase, self.deadline) else { return };
        let silent = || links.iter().zip(&self.results).enumerate().filter(|(_, (_, results))| results.is_empty());
        let stopped = || silent().filter(|(_, (link, _))| link.worker.is_stopped()).map(|(rank, _)| rank);
        let late = self.watchdog.late(Instant::now(), || stopped().next().is_some());
        match (std::mem::replace(&mut self.stopped, self.watchdog.sees_stopped()), self.stopped) {
            (false, true) => warn!("stopped by a signal, and waited for: ranks {:?}", stopped().collect::<Vec<_>>()),
            (true, false) => info!("no rank is stopped any more"),
            _ => {}
        }
        if let Some((Sent { step, rows, .. }, after)) = late {
            let silent: Vec<_> =
                silent().map(|(rank, (link, _))| format!("rank {rank} {}", link.worker.seen())).collect();
            let (seconds, silent) = (after.as_secs_f32(), silent.join(", "));
            self.fail(format!("step {step} of {rows} rows: no answer within {seconds:.1} s from {silent}"));
        }
    }

    fn fail(&mut self, reason: String) {
        error!("the model has failed: {reason}");
        for updates in self.callers.values() {
            let _ = updates.send(Update::Failed { reason: reason.clone() });
        }
        self.end(Status::Failed { reason }, true);
    }

    /// Tells all workers to end, and kills them if that must be `now`.
    fn end(&mut self, status: Status, now: bool) {
        let workers = match std::mem::replace(&mut self.phase, Phase::Ending) {
            Phase::Loading(workers) => workers,
            Phase::Running(links) => links.into_iter().map(|link| link.worker).collect(),
            Phase::Ending => return,
        };
        self.deadline = None;
        self.callers.clear();
        let load = Occupancy { waiting: 0, running: 0, blocks_available: self.config.kv_blocks as usize };
        self.activity.send_modify(|activity| activity.load = load);
        self.status.send_replace(status);
        if now {
            workers.into_iter().for_each(Worker::kill);
        } else {
            info!("all requests are finished; the workers end");
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The ranks sample each for itself, and must agree.
fn same_choices(one: &StepResult, other: &StepResult) -> bool {
    let choices = |result: &StepResult| {
        let outputs = result.outputs.iter();
        let tokens = outputs.flat_map(|output| output.samples.iter().map(|sample| (output.seq, sample.token.id)));
        tokens.collect::<Vec<_>>()
    };
    one.step == other.step && choices(one) == choices(other)
}
