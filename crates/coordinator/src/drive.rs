//! The loop that leads all ranks.

use crate::callers::{Caller, Callers};
use crate::checksums::Checksums;
use crate::event::{Event, Sender};
use crate::fleet::{Change, Fleet, RankEvent, Status, shortened};
use crate::load_watch::LoadWatch;
use crate::observer::Planned;
use crate::ranks::{self, RankLink, Started, Worker};
use crate::results::{Gathered, Results};
use crate::watchdog::{Sent, Watchdog};
use crate::{Activity, CoordinatorConfig, Observer, Update, Workers};
use scheduler::{ItlController, Occupancy, Scheduler, SchedulerConfig, Submission};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use step::SeqId;
use timeouts::StepTimeLimits;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{error, info, warn};

/// How long the loop listens for what other ranks say about a failure before it ends the epoch.
const FAILURE_GRACE: Duration = Duration::from_millis(300);

/// How long the loop waits for the processes that it has asked to end. They are killed long before.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The most bytes of a failure's reason that callers get.
const REASON_BYTES_MAX: usize = 2048;

/// Where the epoch is.
enum Phase {
    Loading(Vec<Worker>),
    Running(Vec<RankLink>),
    /// No more steps are planned, and the processes have been asked to end.
    Ending,
}

/// The loop's state.
pub(crate) struct Driver {
    config: CoordinatorConfig,
    events: Sender,
    status: watch::Sender<Status>,
    activity: watch::Sender<Activity>,
    observer: Arc<dyn Observer>,
    phase: Phase,
    fleet: Fleet,
    checksums: Checksums,
    scheduler: Scheduler,
    callers: Callers,
    results: Results,
    /// The steps that have been sent and not committed.
    planned: VecDeque<Planned>,
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
        events: Sender,
        status: watch::Sender<Status>,
        activity: watch::Sender<Activity>,
        observer: Arc<dyn Observer>,
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
            events,
            status,
            activity,
            observer,
            phase: Phase::Loading(Vec::new()),
            fleet: Fleet::new(config.world),
            checksums: Checksums::default(),
            scheduler,
            callers: Callers::default(),
            results: Results::new(config.world),
            planned: VecDeque::new(),
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
        let Started { workers, failure, _processes } = ranks::start(&self.config, workers, &self.events).await;
        self.alive = workers.len();
        self.phase = Phase::Loading(workers);
        if let Some(reason) = failure {
            self.fail(&reason);
        }
        let mut load = LoadWatch::new(self.config.load_limit);
        let mut ask = interval_at(Instant::now() + LoadWatch::ASK_EVERY, LoadWatch::ASK_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !matches!(self.phase, Phase::Ending) {
            tokio::select! {
                // An answer that is there is not late.
                biased;
                event = events.recv() => self.on(event.expect("the loop itself holds a sender")),
                _ = ask.tick(), if self.deadline.is_none() && matches!(self.phase, Phase::Loading(_)) => {
                    if let Some(idle) = load.late(self.fleet.mark()) {
                        self.on_late_load(idle);
                    }
                }
                () = sleep_until(self.deadline) => self.fail(&self.fleet.reason()),
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

    fn on(&mut self, event: Event) {
        match event {
            Event::Submit { seq, submission, caller } => self.submit(seq, submission, caller),
            Event::Abort(seq) => {
                // Most have ended by themselves.
                if self.callers.remove(seq) {
                    self.scheduler.abort(seq);
                }
            }
            Event::Drain => self.drain(),
            Event::Stop => self.end(Status::Stopped, true),
            Event::Rank { rank, event } => self.on_rank(rank, event),
            Event::Read { rank, checksums } => {
                if let Err(reason) = self.checksums.first_or_differs(rank, checksums) {
                    self.on_rank(rank, RankEvent::Error(reason));
                }
            }
            Event::Result { rank, result } => {
                self.results.push(rank, result);
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

    fn submit(&mut self, seq: SeqId, submission: Submission, caller: Caller) {
        if matches!(self.phase, Phase::Ending) {
            // The caller saw the status of a moment ago. Without an update its stream just ends.
            if let Status::Failed { reason } = &*self.status.borrow() {
                let _ = caller.updates.send(Update::Failed { reason: reason.clone() });
            }
            return;
        }
        match self.scheduler.submit(seq, submission) {
            Ok(()) => self.callers.add(seq, caller),
            // The caller may be gone.
            Err(error) => drop(caller.updates.send(Update::Failed { reason: error.to_string() })),
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
        let mut begun = Instant::now();
        while let Some(plan) = self.scheduler.plan() {
            let command = wire::plan_to_wire(&plan);
            self.watchdog.sent(&plan, Instant::now());
            for link in links {
                // A rank that is gone reports it itself.
                let _ = link.commands.send(command.clone());
            }
            let end = Instant::now();
            self.planned.push_back(Planned::new(&plan, end - begun, self.callers.traced(&plan)));
            begun = end;
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

    /// The oldest step has been answered: what its time says for those that follow. Returns that time.
    fn measure(&mut self) -> Duration {
        let Some((sent, taken)) = self.watchdog.answered(Instant::now()) else { return Duration::ZERO };
        if let Some(itl) = self.itl.as_mut().filter(|_| sent.rows > sent.prompt_rows) {
            itl.observe(sent.prompt_rows, micros(taken));
            self.scheduler.limit_prompt_rows(itl.prompt_rows());
        }
        taken
    }

    /// Commits every step of which all ranks have sent the result.
    fn gather(&mut self) {
        let goes_on = |driver: &Self| driver.deadline.is_none() && matches!(driver.phase, Phase::Running(_));
        while goes_on(self)
            && let Some(result) = self.results.next()
        {
            let taken = self.measure();
            if let Err(reason) = result.and_then(|gathered| self.commit(gathered, taken)) {
                return self.fail(&reason);
            }
        }
    }

    /// Commits a step, hands out what it brought forth, and tells of it.
    fn commit(&mut self, Gathered { result, ranks }: Gathered, taken: Duration) -> Result<(), String> {
        let begun = Instant::now();
        let events = self.scheduler.commit(result).map_err(|error| error.to_string())?;
        let committed = Instant::now();
        let planned = self.planned.pop_front().expect("a step that is committed was sent");
        let record = planned.done(taken, committed - begun, ranks);
        self.callers.tell(&planned.traced, &record);
        events.into_iter().for_each(|event| self.callers.deliver(event));
        self.observer.step(&record, committed.elapsed());
        Ok(())
    }

    /// Nothing has come of the load for too long.
    fn on_late_load(&mut self, idle: Duration) {
        let Phase::Loading(workers) = &self.phase else { unreachable!("it is asked for while ranks load") };
        let silent = workers.iter().enumerate().filter(|&(rank, _)| self.fleet.is_loading(rank));
        let silent: Vec<_> = silent.map(|(rank, worker)| format!("rank {rank} {}", worker.seen())).collect();
        let (seconds, silent) = (idle.as_secs(), silent.join(", "));
        self.fail(&format!("the load has made no progress for {seconds} s (--load-timeout); not ready: {silent}"));
    }

    /// Looks whether some rank has not answered the oldest step in time.
    fn watch(&mut self) {
        let (Phase::Running(links), None) = (&self.phase, self.deadline) else { return };
        let silent = || links.iter().enumerate().filter(|&(rank, _)| self.results.is_missing(rank));
        let stopped = || silent().filter(|(_, link)| link.worker.is_stopped()).map(|(rank, _)| rank);
        let late = self.watchdog.late(Instant::now(), || stopped().next().is_some());
        match (std::mem::replace(&mut self.stopped, self.watchdog.sees_stopped()), self.stopped) {
            (false, true) => warn!("stopped by a signal, and waited for: ranks {:?}", stopped().collect::<Vec<_>>()),
            (true, false) => info!("no rank is stopped any more"),
            _ => {}
        }
        if let Some((Sent { step, rows, .. }, after)) = late {
            let silent: Vec<_> = silent().map(|(rank, link)| format!("rank {rank} {}", link.worker.seen())).collect();
            let (seconds, silent) = (after.as_secs_f32(), silent.join(", "));
            self.fail(&format!("step {step} of {rows} rows: no answer within {seconds:.1} s from {silent}"));
        }
    }

    fn fail(&mut self, reason: &str) {
        error!("the model has failed: {reason}");
        // Callers are told of it in a header.
        let reason = shortened(reason, REASON_BYTES_MAX);
        self.callers.end_all(Some(&reason));
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
        self.callers.end_all(None);
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
