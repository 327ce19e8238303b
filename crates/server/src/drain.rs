//! Taking no new requests: who may still bring one, and when nobody does any more.
//!
//! A request that is on its way when a drain begins must not fail for that. So connections that were open before may still bring one,
//! until they have seen that the server wants no more: by GOAWAY, or by `connection: close`. All later ones are refused.

use crate::limits::DRAIN_LINGER;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

tokio::task_local! {
    /// How many drains had begun when the connection of the call that a task answers was opened.
    static OPENED_AFTER: u64;
}

/// Whether a server takes new requests. Clones tell of the same one.
#[derive(Clone, Default)]
pub(crate) struct Drain(Arc<Shared>);

#[derive(Default)]
struct Shared {
    turn: watch::Sender<Turn>,
    /// Connections that are open.
    open: watch::Sender<usize>,
    /// What is under way that an end waits for.
    work: watch::Sender<usize>,
}

/// Where a server is between drains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Drains that have begun so far.
    begun: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Taking,
    /// Until somebody takes it back.
    Draining,
    /// The server ends.
    Ending,
}

impl Turn {
    /// Whether new requests are refused.
    pub(crate) fn is_on(self) -> bool {
        self.phase != Phase::Taking
    }

    /// Whether the server ends.
    pub(crate) fn is_end(self) -> bool {
        self.phase == Phase::Ending
    }

    /// Why new requests are refused, for people.
    pub(crate) fn why(self) -> &'static str {
        if self.is_end() { "shutting down" } else { "drained by its operator" }
    }
}

impl Drain {
    /// Refuses new requests from now on.
    pub(crate) fn begin(&self) {
        self.change(Phase::Draining);
    }

    /// The same, for good.
    pub(crate) fn end(&self) {
        self.change(Phase::Ending);
    }

    /// Takes requests again. Says whether it does: a server that ends does not.
    pub(crate) fn undo(&self) -> bool {
        self.change(Phase::Taking);
        !self.turn().is_end()
    }

    fn change(&self, to: Phase) {
        self.0.turn.send_if_modified(|turn| {
            let goes = turn.phase != to && !turn.is_end();
            if goes {
                turn.begun += u64::from(!turn.is_on());
                turn.phase = to;
            }
            goes
        });
    }

    pub(crate) fn turn(&self) -> Turn {
        *self.0.turn.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Turn> {
        self.0.turn.subscribe()
    }

    /// Whether the call that this task answers may begin a request. What comes over no connection counts as new.
    pub(crate) fn takes(&self) -> bool {
        let turn = self.turn();
        !turn.is_on() || OPENED_AFTER.try_with(|&drains| drains < turn.begun).unwrap_or(false)
    }

    /// A connection that is opened now.
    pub(crate) fn connection(&self) -> Opened {
        self.opened_after(self.turn().begun)
    }

    /// A connection that is opened now, and had waited in a queue: where the server ends, since before.
    pub(crate) fn queued_connection(&self) -> Opened {
        let turn = self.turn();
        self.opened_after(turn.begun - u64::from(turn.is_end()))
    }

    fn opened_after(&self, after: u64) -> Opened {
        self.0.open.send_modify(|open| *open += 1);
        Opened { drain: self.clone(), after }
    }

    /// Something that an end waits for, until it is dropped.
    pub(crate) fn work(&self) -> Work {
        self.0.work.send_modify(|work| *work += 1);
        Work(self.clone())
    }

    /// Waits until there is no work, and nobody is left who might bring some: the connections are gone, or have brought nothing for a
    /// while.
    pub(crate) async fn quiet(&self) {
        let (mut open, mut work) = (self.0.open.subscribe(), self.0.work.subscribe());
        let mut still = work.clone();
        let all_left = async {
            is_none(&mut open).await;
            is_none(&mut still).await;
        };
        tokio::select! {
            () = stays_none(&mut work, DRAIN_LINGER) => {}
            () = all_left => {}
        }
    }
}

/// What an end waits for.
pub(crate) struct Work(Drain);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.0.work.send_modify(|work| *work -= 1);
    }
}

/// A connection, as drains see it.
pub(crate) struct Opened {
    drain: Drain,
    /// How many drains had begun.
    after: u64,
}

impl Opened {
    /// Whether it was there before the drain that is on began.
    pub(crate) fn is_older_than(&self, turn: Turn) -> bool {
        turn.is_on() && self.after < turn.begun
    }

    /// Answers a call that comes over it. One that may begin a request is work before its body is there.
    pub(crate) async fn scope<T>(&self, call: impl Future<Output = T>) -> T {
        let turn = self.drain.turn();
        let _work = (!turn.is_on() || self.is_older_than(turn)).then(|| self.drain.work());
        OPENED_AFTER.scope(self.after, call).await
    }

    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.drain.0.open.send_modify(|open| *open -= 1);
    }
}

/// Waits until the count has been 0 for so long. Where nobody counts any more, it is.
pub(crate) async fn stays_none(count: &mut watch::Receiver<usize>, limit: Duration) {
    loop {
        is_none(count).await;
        tokio::select! {
            () = sleep(limit) => return,
            Ok(()) = count.changed() => {}
        }
    }
}

async fn is_none(count: &mut watch::Receiver<usize>) {
    let _ = count.wait_for(|&count| count == 0).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    async fn taken(connection: &Opened) -> bool {
        let drain = connection.drain().clone();
        connection.scope(async move { drain.takes() }).await
    }

    #[tokio::test]
    async fn connections_of_before_a_drain_may_bring_what_is_on_its_way() {
        let drain = Drain::default();
        let older = drain.connection();
        assert!(taken(&older).await && drain.takes());
        drain.begin();
        drain.begin();
        let newer = drain.connection();
        assert!(taken(&older).await && older.is_older_than(drain.turn()));
        assert!(!taken(&newer).await && !newer.is_older_than(drain.turn()) && !drain.takes());
        assert!(drain.undo());
        assert!(taken(&newer).await && drain.takes() && !older.is_older_than(drain.turn()));
        drain.begin();
        assert!(taken(&newer).await, "to the next drain it is an old one");
        drain.end();
        assert!(taken(&newer).await, "the end goes on with the drain");
        assert!(!drain.undo() && !drain.takes(), "it is for good");
        assert!(taken(&drain.queued_connection()).await && !taken(&drain.connection()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_quiet_when_all_have_left_or_bring_nothing() {
        let drain = Drain::default();
        let work = drain.work();
        let begin = Instant::now();
        let idle = drain.connection();
        drain.end();
        let quiet = tokio::spawn({
            let drain = drain.clone();
            async move { drain.quiet().await }
        });
        tokio::time::sleep(Duration::from_secs(100)).await;
        drop(work);
        tokio::time::sleep(DRAIN_LINGER / 2).await;
        // What was on its way: its body takes long.
        idle.scope(async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert!(!quiet.is_finished());
        })
        .await;
        let newer = drain.connection();
        // It may not bring anything.
        tokio::spawn(async move { newer.scope(tokio::time::sleep(Duration::from_secs(100))).await });
        let last = Instant::now();
        quiet.await.expect("no panic");
        assert_eq!(last.elapsed().as_secs(), DRAIN_LINGER.as_secs(), "{:?}", begin.elapsed());
        drop(idle);
        let at = Instant::now();
        drop(drain.connection());
        Drain::default().quiet().await;
        assert_eq!(at.elapsed(), Duration::ZERO, "nobody is there");
    }
}
