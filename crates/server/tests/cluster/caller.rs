//! Callers of the gRPC API: what they ask for, what they do, and what they got.

use crate::ledger::continue_alone;
use server::GrpcApi;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};
use wire::generation as pb;
use wire::generation::generation_server::Generation;

/// Tokens that end a text.
pub const EOS: [u32; 2] = [0, 1];

/// How long a reader may stand still.
pub const STALL_LIMIT: Duration = Duration::from_secs(2);

/// What a caller does with its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Reads it to the end.
    Reads,
    /// Goes away after so many tokens.
    Leaves(usize),
    /// Reads until the deadline.
    HasDeadline(Duration),
    /// Reads nothing until some time after the deadline.
    Stalls(Duration),
    /// Has no deadline, and reads nothing until some time after [`STALL_LIMIT`].
    Freezes,
}

/// One request, and whoever makes it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub arrival: Duration,
    pub prompt: Vec<u32>,
    pub max_new_tokens: u32,
    pub ignore_eos: bool,
    pub priority: pb::Priority,
    pub behaviour: Behaviour,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub caller: Caller,
    pub tokens: Vec<u32>,
    pub details: Option<pb::Details>,
    /// Why it ended, if not with its last token, nor because the caller left.
    pub status: Option<Status>,
    pub took: Duration,
}

/// Callers that certainly have a permit, and those that may have one.
#[derive(Default)]
pub struct Counts {
    pub certain: AtomicUsize,
    pub possible: AtomicUsize,
}

impl Caller {
    fn request(&self) -> Request<pb::GenerateRequest> {
        let parameters = pb::Parameters {
            max_new_tokens: Some(self.max_new_tokens),
            ignore_eos: Some(self.ignore_eos),
            details: Some(true),
            ..Default::default()
        };
        let mut request = Request::new(pb::GenerateRequest {
            input_ids: self.prompt.clone(),
            parameters: Some(parameters),
            priority: self.priority.into(),
            ..Default::default()
        });
        if let Behaviour::HasDeadline(after) | Behaviour::Stalls(after) = self.behaviour {
            request.set_timeout(after);
        }
        request
    }

    /// Asks, and does with the stream what it does.
    pub async fn run(self, api: Arc<GrpcApi>, counts: Arc<Counts>, permits: usize) -> Outcome {
        sleep(self.arrival).await;
        let begin = Instant::now();
        let mut outcome =
            Outcome { caller: self, tokens: Vec::new(), details: None, status: None, took: Duration::ZERO };
        match api.generate_stream(outcome.caller.request()).await {
            Err(status) => {
                let possible = counts.possible.load(Ordering::Relaxed);
                let full = status.code() == Code::ResourceExhausted;
                assert!(!full || possible >= permits, "refused with {possible} of {permits} permits taken");
                outcome.status = Some(status);
            }
            Ok(stream) => {
                let reads = !matches!(outcome.caller.behaviour, Behaviour::Stalls(_) | Behaviour::Freezes);
                let certain = counts.certain.fetch_add(usize::from(reads), Ordering::Relaxed) + usize::from(reads);
                counts.possible.fetch_add(1, Ordering::Relaxed);
                assert!(certain <= permits, "{certain} requests in {permits} permits");
                outcome.read(stream.into_inner(), begin).await;
                counts.certain.fetch_sub(usize::from(reads), Ordering::Relaxed);
                counts.possible.fetch_sub(1, Ordering::Relaxed);
            }
        }
        outcome.took = begin.elapsed();
        outcome
    }
}

impl Outcome {
    async fn read(&mut self, mut stream: <GrpcApi as Generation>::GenerateStreamStream, begin: Instant) {
        match self.caller.behaviour {
            Behaviour::Stalls(after) => sleep_until(begin + 2 * after).await,
            Behaviour::Freezes => sleep_until(begin + 2 * STALL_LIMIT).await,
            _ => {}
        }
        loop {
            if matches!(self.caller.behaviour, Behaviour::Leaves(count) if self.tokens.len() >= count) {
                return;
            }
            match stream.next().await {
                Some(Ok(message)) => {
                    self.tokens.extend(message.tokens.iter().map(|token| token.id));
                    self.details = message.details;
                }
                Some(Err(status)) => {
                    self.status = Some(status);
                    return;
                }
                None => return,
            }
        }
    }

    /// There was no room for more that wait until the ranks serve again.
    pub fn is_refused_while_recovering(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.message().starts_with("the model recovers"))
    }

    /// Holds it against what the request gets alone. `failed` says that the cluster has failed for good, or that the request breaks it,
    /// and `patience` how long a request may take otherwise.
    pub fn check(&self, failed: bool, patience: Duration) {
        let Self { caller, tokens, details, status, took } = self;
        let mut alone = continue_alone(&caller.prompt, caller.max_new_tokens as usize);
        let end = alone.iter().position(|token| !caller.ignore_eos && EOS.contains(token));
        alone.truncate(end.map_or(alone.len(), |end| end + 1));
        assert!(alone.starts_with(tokens), "{self:?}: alone it gets {alone:?}");
        match (details, status) {
            (Some(details), None) => {
                let reason = if alone.len() == caller.max_new_tokens as usize { "length" } else { "eos_token" };
                assert_eq!((tokens, &*details.finish_reason), (&alone, reason), "{caller:?}");
                assert!(details.cached_tokens < details.prompt_tokens, "{details:?}");
                let slept = if caller.behaviour == Behaviour::Freezes { 2 * STALL_LIMIT } else { Duration::ZERO };
                assert!(*took <= patience + slept, "{took:?} for {caller:?}");
            }
            (None, None) => assert!(matches!(caller.behaviour, Behaviour::Leaves(_)), "{self:?} just ended"),
            (None, Some(status)) => match (status.code(), caller.behaviour) {
                (Code::ResourceExhausted, _) => assert!(tokens.is_empty()),
                (Code::DeadlineExceeded, Behaviour::HasDeadline(after) | Behaviour::Stalls(after)) => {
                    // Timers and the deadline on the wire are as fine as a millisecond; it is given a little early.
                    assert!(*took + Duration::from_millis(10) >= after, "{self:?} came too early");
                    let waited = if matches!(caller.behaviour, Behaviour::Stalls(_)) { after } else { Duration::ZERO };
                    assert!(*took <= after + waited + Duration::from_millis(10), "{self:?} came too late");
                }
                (Code::DeadlineExceeded, Behaviour::Freezes) => {
                    assert!(*took >= STALL_LIMIT, "{self:?} came too early");
                    assert!(status.message().contains("--stalled-stream-timeout"), "{self:?}");
                }
                (Code::Unavailable, _) if self.is_refused_while_recovering() => assert!(tokens.is_empty()),
                (Code::Internal | Code::Unavailable, _) => assert!(failed, "{self:?} in a cluster that has not failed"),
                _ => panic!("{self:?}"),
            },
            (Some(_), Some(_)) => panic!("{self:?} goes on behind its end"),
        }
    }
}
