//! The loop that leads all ranks, from one epoch to the next.

use crate::checksums::Checksums;
use crate::epoch::{Answered, Epoch, Failure};
use crate::event::{Event, Sender};
use crate::fleet::{RankEvent, Status};
use crate::observer::Recovery;
use crate::requests::{Caller, Requests};
use crate::restart_policy::RestartPolicy;
use crate::results::Gathered;
use crate::suspects::{Suspects, Verdict};
use crate::watchdog::Sent;
use crate::{Activity, CoordinatorConfig, Observer, Update, Workers};
use scheduler::{ItlController, Occupancy, Scheduler, SchedulerConfig, Submission};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use step::SeqId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{error, info, warn};

/// How long the loop waits for the processes that it has asked to end. They are killed long before.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The loop's state.
pub(crate) struct Driver {
    config: CoordinatorConfig,
    workers: Workers,
    events: Sender,
    status: watch::Sender<Status>,
    activity: watch::Sender<Activity>,
    observer: Arc<dyn Observer>,
    epoch: Epoch,
    checksums: Checksums,
    scheduler: Scheduler,
    requests: Requests,
    /// Bounds the time of steps, if that is asked for.
    itl: Option<ItlController>,
    /// Nothing has happened since the scheduler was checked.
    checked: bool,
    draining: bool,
    /// No epoch follows.
    over: bool,
    was_ready: bool,
    policy: RestartPolicy,
    suspects: Suspects,
    /// Failures that count no more once a step is done.
    to_forgive: usize,
    /// Since when, and how, if the ranks have failed and do not serve yet.
    recovery: Option<(Instant, SystemTime, Recovery)>,
    /// Since when the ranks serve again, if no token has come since, and what came before.
    resuming: Option<(Instant, Recovery)>,
}

impl Driver {
    pub(crate) fn new(
        config: CoordinatorConfig,
        workers: Workers,
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
            workers,
            events,
            status,
            activity,
            observer,
            epoch: Epoch::new(0, &config),
            checksums: Checksums::default(),
            scheduler,
            requests: Requests::default(),
            itl,
            checked: true,
            draining: false,
            over: false,
            was_ready: false,
            policy: RestartPolicy::new(config.restarts),
            suspects: Suspects::default(),
            to_forgive: 0,
            recovery: None,
            resuming: None,
            config,
        }
    }

    /// Runs until every process has ended, and no other follows.
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        loop {
            self.live(&mut events).await;
            let again = self.epoch.take_failure().and_then(|failure| self.after(&failure));
            self.reap(&mut events).await;
            if let Some(at) = again {
                self.wait(at, &mut events).await;
            }
            if self.over {
                return self.reap(&mut events).await;
            }
            self.epoch = self.epoch.next(&self.config);
        }
    }

    /// Runs an epoch to its end.
    async fn live(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        let begun = Instant::now();
        self.epoch.start(&self.config, &self.workers, &self.events).await;
        self.observer.started(&self.epoch.pids());
        let mut look = interval_at(begun + Epoch::LOOK_EVERY, Epoch::LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.epoch.is_loading() || self.epoch.is_running() || self.epoch.deadline().is_some() {
            tokio::select! {
                // An answer that is there is not late.
                biased;
                event = events.recv() => self.on(event.expect("the loop itself holds a sender")),
                _ = look.tick() => self.epoch.look(),
                () = sleep_until(self.epoch.deadline()) => self.epoch.give_up(),
                () = tokio::time::sleep(Epoch::WATCH_EVERY), if self.epoch.is_waiting() => {}
            }
            while let Ok(event) = events.try_recv() {
                self.on(event);
            }
            self.epoch.watch();
            self.pump();
        }
    }

    /// The ranks have failed: what becomes of the requests, and when others take their place, if they do.
    fn after(&mut self, failure: &Failure) -> Option<Instant> {
        let (now, Failure { reason, from_outside }) = (Instant::now(), failure);
        self.resumed(true);
        self.observer.failed();
        let read_in_vain = if self.recovery.is_some() { self.epoch.kept_and_read().1 } else { 0 };
        let lost = self.scheduler.restart();
        let mut counts = true;
        self.to_forgive = 0;
        if !from_outside {
            let verdict = self.suspects.failed(&lost);
            counts = verdict.counts;
            self.convict(&verdict, reason);
        }
        self.scheduler.admit_only(self.suspects.on_trial());
        // One that has never been ready is not so by accident, unless somebody wants it to be tried again and again.
        let may_restart = self.was_ready || self.config.restarts.failures_max.is_none();
        let Some(delay) = self.policy.failed(now, counts).filter(|_| may_restart) else {
            self.over(Status::Failed { reason: reason.clone() }, Some(reason));
            return None;
        };
        let (_, since, recovery) = self.recovery.get_or_insert_with(|| (now, SystemTime::now(), Recovery::default()));
        recovery.failures += 1;
        recovery.read_bytes += read_in_vain;
        let (since, failures) = (*since, recovery.failures);
        if !self.was_ready {
            // What was read then may have been the fault.
            self.checksums = Checksums::default();
        }
        if !self.draining {
            self.status.send_replace(Status::Recovering { since, failures, reason: reason.clone() });
        }
        let waiting = self.scheduler.load().waiting;
        warn!("{waiting} requests wait for the ranks, which are started again in {:.1} s", delay.as_secs_f32());
        self.tell_activity();
        Some(now + delay)
    }

    /// Ends the request that breaks the ranks, if it is known by now.
    fn convict(&mut self, verdict: &Verdict, reason: &str) {
        if let Some(seq) = verdict.guilty {
            error!("the ranks fail whenever sequence {seq} runs: it is ended");
            self.scheduler.abort(seq);
            self.requests.fail(seq, reason);
            self.to_forgive = verdict.forgiven;
        }
    }

    /// Waits until every process of the epoch has ended that does not go on.
    async fn reap(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        let begun = Instant::now();
        for limit in [Epoch::LEAVE_LIMIT, END_LIMIT] {
            let ended = async {
                while self.epoch.ending() > 0 {
                    self.on(events.recv().await.expect("the loop itself holds a sender"));
                }
            };
            // What has been killed is given more time.
            if tokio::time::timeout(limit, ended).await.is_err() {
                self.epoch.stop_waiting_for_survivors();
            }
        }
        if self.epoch.ending() > 0 {
            error!("{} worker processes have not ended", self.epoch.ending());
        }
        if let Some((.., recovery)) = &mut self.recovery {
            recovery.ending += begun.elapsed();
        }
    }

    /// Waits until the next epoch is to begin, or none is.
    async fn wait(&mut self, at: Instant, events: &mut mpsc::UnboundedReceiver<Event>) {
        let begun = Instant::now();
        while !self.over {
            if self.draining && self.scheduler.is_idle() {
                return self.over(Status::Stopped, None);
            }
            tokio::select! {
                event = events.recv() => self.on(event.expect("the loop itself holds a sender")),
                () = tokio::time::sleep_until(at) => break,
            }
        }
        if let Some((.., recovery)) = &mut self.recovery {
            recovery.waiting += begun.elapsed();
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Submit { seq, submission, caller } => self.submit(seq, submission, caller),
            Event::Abort(seq) => {
                // Most have ended by themselves.
                if self.requests.remove(seq) {
                    self.scheduler.abort(seq);
                    self.on_ended(seq);
                    self.tell_activity_while_not_running();
                }
            }
            Event::Drain => self.drain(),
            Event::Stop => self.over(Status::Stopped, None),
            // What one of an earlier epoch says comes too late.
            Event::Rank { epoch, .. }
            | Event::Read { epoch, .. }
            | Event::Pong { epoch, .. }
            | Event::Result { epoch, .. }
                if epoch != self.epoch.number() => {}
            Event::Rank { rank, event, .. } => {
                if let Some(memory) = self.epoch.on_rank(rank, event) {
                    self.ready(memory);
                } else if self.epoch.is_loading() && self.recovery.is_none() {
                    let (done, total) = self.epoch.progress();
                    self.status.send_replace(Status::Loading { done, total });
                }
            }
            Event::Read { rank, checksums, .. } => {
                if let Err(reason) = self.checksums.first_or_differs(rank, checksums) {
                    self.epoch.on_rank(rank, RankEvent::Error(reason));
                }
            }
            Event::Pong { rank, .. } => self.epoch.on_pong(rank),
            Event::Result { rank, result, .. } => {
                self.epoch.on_result(rank, result);
                self.gather();
            }
        }
    }

    fn ready(&mut self, memory: Vec<crate::RankMemory>) {
        self.was_ready = true;
        if let Some((begun, _, mut recovery)) = self.recovery.take() {
            recovery.loading = begun.elapsed().saturating_sub(recovery.ending + recovery.waiting);
            let (kept, read_bytes) = self.epoch.kept_and_read();
            (recovery.kept, recovery.read_bytes) = (kept, recovery.read_bytes + read_bytes);
            self.resuming = Some((Instant::now(), recovery));
            if self.scheduler.is_idle() {
                self.resumed(false);
            }
        }
        if !self.draining {
            self.status.send_replace(Status::Ready { memory });
        }
    }

    /// The ranks serve again, and have brought a token, if somebody `waited` for one.
    fn resumed(&mut self, waited: bool) {
        let Some((ready, mut recovery)) = self.resuming.take() else { return };
        recovery.computing = if waited { ready.elapsed() } else { Duration::ZERO };
        let Recovery { ending, waiting, loading, computing, read_bytes, kept, .. } = recovery;
        let [ending, waiting, loading, computing] = [ending, waiting, loading, computing].map(|d| d.as_secs_f32());
        let all = ending + waiting + loading + computing;
        info!(
            "the ranks serve again after {all:.2} s: {ending:.2} s to end, {waiting:.2} s to wait, {loading:.2} s to load, \
             {computing:.2} s to the next token; {kept} of {} ranks kept their weights, {read_bytes} bytes were read again",
            self.config.world
        );
        self.observer.recovered(&recovery);
    }

    fn submit(&mut self, seq: SeqId, submission: Submission, caller: Caller) {
        if self.over {
            // The caller saw the status of a moment ago. Without an update its stream just ends.
            if let Status::Failed { reason } = &*self.status.borrow() {
                let _ = caller.updates.send(Update::Lost { reason: reason.clone() });
            }
            return;
        }
        match self.scheduler.submit(seq, submission) {
            Ok(()) => self.requests.add(seq, caller),
            // The caller may be gone.
            Err(error) => drop(caller.updates.send(Update::Failed { reason: error.to_string() })),
        }
        self.tell_activity_while_not_running();
    }

    fn drain(&mut self) {
        if !self.was_ready {
            self.over(Status::Stopped, None);
        } else if !self.draining && !self.over {
            self.draining = true;
            self.status.send_replace(Status::Draining);
        }
    }

    /// Sends as many plans as there may be in flight; ends when there is nothing left to finish.
    fn pump(&mut self) {
        if !self.epoch.is_running() {
            if self.draining && self.scheduler.is_idle() {
                self.over(Status::Stopped, None);
            }
            return;
        }
        let mut begun = Instant::now();
        while let Some(plan) = self.scheduler.plan() {
            begun = self.epoch.send(&plan, begun, self.requests.traced(&plan));
        }
        self.tell_activity();
        if self.scheduler.is_idle() {
            self.on_idle();
        } else {
            self.checked = false;
        }
    }

    /// While the ranks run, each step tells it.
    fn tell_activity_while_not_running(&self) {
        if !self.epoch.is_running() {
            self.tell_activity();
        }
    }

    fn tell_activity(&self) {
        let activity = Activity { load: self.scheduler.load(), totals: self.scheduler.totals() };
        self.activity.send_if_modified(|last| std::mem::replace(last, activity) != activity);
    }

    /// Nothing waits, and nothing runs.
    fn on_idle(&mut self) {
        // Who waited for a token may have gone.
        self.resumed(false);
        if (self.config.check_invariants || cfg!(debug_assertions)) && !std::mem::replace(&mut self.checked, true) {
            self.scheduler.check();
            assert!(self.requests.is_empty(), "a caller waits for nothing");
        }
        if self.draining {
            info!("all requests are finished; the workers end");
            // They end by themselves when their connections do.
            self.epoch.end(false);
            self.over(Status::Stopped, None);
        }
    }

    /// Commits every step of which all ranks have sent the result.
    fn gather(&mut self) {
        while let Some(answered) = self.epoch.next_answered() {
            self.bound_time(&answered.sent, answered.taken);
            if let Err(reason) = self.commit(answered) {
                self.epoch.fail_as_a_whole(&reason);
            }
        }
    }

    /// What the time of a step says for those that follow.
    fn bound_time(&mut self, sent: &Sent, taken: Duration) {
        if let Some(itl) = self.itl.as_mut().filter(|_| sent.rows > sent.prompt_rows) {
            itl.observe(sent.prompt_rows, micros(taken));
            self.scheduler.limit_prompt_rows(itl.prompt_rows());
        }
    }

    /// Commits a step, hands out what it brought forth, and tells of it.
    fn commit(&mut self, answered: Answered) -> Result<(), String> {
        let Answered { planned, taken, gathered: Gathered { result, ranks }, .. } = answered;
        let begun = Instant::now();
        let events = self.scheduler.commit(result).map_err(|error| error.to_string())?;
        let committed = Instant::now();
        let record = planned.done(taken, committed - begun, ranks);
        self.requests.tell(&planned.traced, &record);
        if self.resuming.is_some() && events.iter().any(|event| matches!(event, scheduler::Event::Token { .. })) {
            self.resumed(true);
        }
        for event in events {
            if let Some(seq) = self.requests.deliver(event) {
                self.on_ended(seq);
            }
        }
        self.policy.forgive(std::mem::take(&mut self.to_forgive));
        if self.suspects.next_trial(|seq| self.scheduler.computed(seq)) {
            self.scheduler.admit_only(self.suspects.on_trial());
        }
        self.observer.step(&record, committed.elapsed());
        Ok(())
    }

    /// A request has ended: others may be on trial now.
    fn on_ended(&mut self, seq: SeqId) {
        if self.suspects.ended(seq) {
            self.scheduler.admit_only(self.suspects.on_trial());
        }
    }

    /// No epoch follows. Callers whose sequences are not finished hear the reason, if there is one; the others' streams just end.
    fn over(&mut self, status: Status, reason: Option<&str>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.requests.end_all(reason);
        self.epoch.end(true);
        let load = Occupancy { waiting: 0, running: 0, blocks_available: self.config.kv_blocks as usize };
        self.activity.send_modify(|activity| activity.load = load);
        self.status.send_replace(status);
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
