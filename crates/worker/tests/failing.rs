//! A rank that cannot go on tells the coordinator so, at once.

use backend::{BackendError, CollectiveError};
use forward::StepError;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use step::{SampleMask, StepId, StepPlan, StepResult};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use wire::control as pb;
use wire::control::worker_client::WorkerClient;
use worker::{LoadError, Loaded, ServeError, StepRunner};

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs one step well, and two at a time; the next one never ends, until it is an error.
#[derive(Default)]
struct Failing {
    begun: Vec<StepId>,
    polls: usize,
}

impl StepRunner for Failing {
    fn steps_in_flight_max(&self) -> usize {
        2
    }

    fn begin(&mut self, plan: StepPlan, _masks: &[SampleMask]) -> Result<(), StepError> {
        self.begun.push(plan.step);
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<StepResult>, StepError> {
        self.polls += 1;
        match self.begun.first().copied() {
            Some(StepId(0)) if self.begun.len() == 2 => {
                self.begun.remove(0);
                Ok(Some(StepResult {
                    step: StepId(0),
                    outputs: Vec::new(),
                    device_time_us: 1,
                    all_reduce_time_us: None,
                }))
            }
            Some(StepId(step @ 1)) if self.polls > 500 => {
                Err(StepError::Plan { step, reason: "the device hangs".to_owned() })
            }
            _ => Ok(None),
        }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        panic!("to give back what hangs would hang");
    }
}

fn plan(step: u64) -> pb::WorkerCommand {
    wire::plan_to_wire(&StepPlan { step: StepId(step), new: Vec::new(), retired: Vec::new(), runs: Vec::new() })
}

type Served = JoinHandle<Result<(), ServeError>>;

/// A worker, and the coordinator's end of its connection.
async fn start(open: impl FnOnce() -> Result<Loaded, LoadError> + Send + 'static) -> (Channel, Served) {
    let (ours, theirs) = StdUnixStream::pair().expect("a pair of sockets");
    let served = tokio::spawn(worker::serve(theirs, move |_, _| open()));
    ours.set_nonblocking(true).expect("a socket");
    let ours = UnixStream::from_std(ours).expect("a socket");
    (wire::connect_over(ours).await.expect("connect"), served)
}

/// Asks for the load, and returns how that ends.
async fn load(client: &mut WorkerClient<Channel>) -> Result<(), Status> {
    let spec = pb::LoadRequest { world: 1, kv_blocks: 1, step_rows_max: 1, threads: 1, ..pb::LoadRequest::default() };
    let mut events = client.load(spec).await?.into_inner();
    while let Some(event) = within(events.next()).await {
        event?;
    }
    Ok(())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("no hang")
}

fn failing() -> Result<Loaded, LoadError> {
    Ok(Loaded { runner: Box::<Failing>::default(), weight_bytes: 1, kv_bytes: 1, checksums: Vec::new(), leaver: None })
}

#[tokio::test]
async fn a_failed_step_is_the_last_answer_and_the_end() {
    let (channel, served) = start(failing).await;
    let mut client = WorkerClient::new(channel);
    load(&mut client).await.expect("it is ready");
    let (commands, commands_from) = mpsc::unbounded_channel();
    // The second plan is there before the first has a result: this rank gives none sooner.
    for step in [0, 1] {
        commands.send(plan(step)).expect("the stream is open");
    }
    let mut results = client.run(UnboundedReceiverStream::new(commands_from)).await.expect("run").into_inner();
    let first = within(results.next()).await.expect("a result");
    assert_eq!(first.expect("a result").step, 0);
    let status = within(results.next()).await.expect("an answer").expect_err("the step fails");
    assert!(status.message().contains("step 1") && status.message().contains("the device hangs"), "{status}");
    // The connection stays open on this side, and the worker ends all the same.
    let served = within(served).await.expect("it does not panic");
    assert!(matches!(&served, Err(ServeError::Step(error)) if error.contains("the device hangs")), "{served:?}");
    drop(commands);
}

/// Nothing comes of steps, and nothing is wrong with them.
struct Idle;

impl StepRunner for Idle {
    fn steps_in_flight_max(&self) -> usize {
        1
    }

    fn begin(&mut self, _plan: StepPlan, _masks: &[SampleMask]) -> Result<(), StepError> {
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<StepResult>, StepError> {
        Ok(None)
    }
}

fn idle() -> Result<Loaded, LoadError> {
    Ok(Loaded { runner: Box::new(Idle), weight_bytes: 1, kv_bytes: 1, checksums: Vec::new(), leaver: None })
}

/// The last message of a stream, which must be an error.
async fn error_of<T: std::fmt::Debug>(mut results: Streaming<T>) -> Status {
    within(results.next()).await.expect("an answer").expect_err("there is nothing to answer")
}

#[tokio::test]
async fn a_command_that_cannot_be_read_is_told_at_once() {
    // One that says nothing, behind one that is good.
    let (channel, _served) = start(idle).await;
    let mut client = WorkerClient::new(channel);
    load(&mut client).await.expect("it is ready");
    let commands = [plan(0), pb::WorkerCommand { command: None }];
    let results = client.run(tokio_stream::iter(commands).chain(tokio_stream::pending())).await.expect("run");
    let status = error_of(results.into_inner()).await;
    assert_eq!(status.message(), "a command that cannot be read: WorkerCommand without `command`");

    // One whose bytes are none: its first field should be a message, and is a number.
    let (channel, _served) = start(idle).await;
    load(&mut WorkerClient::new(channel.clone())).await.expect("it is ready");
    let numbers = tokio_stream::once(pb::LoadProgress { bytes_done: 1, bytes_total: 0 }).chain(tokio_stream::pending());
    let codec = ProstCodec::<pb::LoadProgress, pb::StepResult>::default();
    let mut raw = Grpc::new(channel);
    raw.ready().await.expect("it is connected");
    let path = PathAndQuery::from_static("/peregrine.control.v1.Worker/Run");
    let results = raw.streaming(tonic::Request::new(numbers), path, codec).await.expect("run");
    let status = error_of(results.into_inner()).await;
    assert!(status.message().starts_with("a command that cannot be read: "), "{status}");
}

#[tokio::test]
async fn an_error_has_a_limit() {
    let open = || Err(LoadError::Open { backend: "é".repeat(1 << 20), message: String::new() });
    let (channel, _served) = start(open).await;
    let status = load(&mut WorkerClient::new(channel)).await.expect_err("it cannot be opened");
    let message = status.message();
    assert!(message.starts_with("backend éé") && message.ends_with(" bytes more)"), "{message}");
    assert!(message.len() < 5000, "{}", message.len());
}

/// Every step misses rank 1, once the rank has been told to leave; so does the first attempt to rejoin. The second fails by itself.
struct Missing {
    told: Arc<AtomicBool>,
    step: Option<StepId>,
    rejoined: u32,
}

fn missed() -> BackendError {
    let (rank, operation, sequence) = (0, "all_reduce", 7);
    CollectiveError::Aborted { rank, operation, sequence, by: 1 }.into()
}

impl StepRunner for Missing {
    fn steps_in_flight_max(&self) -> usize {
        1
    }

    fn begin(&mut self, plan: StepPlan, _masks: &[SampleMask]) -> Result<(), StepError> {
        self.step = Some(plan.step);
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<StepResult>, StepError> {
        match self.step {
            Some(step) if self.told.load(Ordering::SeqCst) => Err(StepError::Backend { step: step.0, error: missed() }),
            _ => Ok(None),
        }
    }

    fn leave(&mut self) -> Result<(), BackendError> {
        assert!(self.told.swap(false, Ordering::SeqCst), "first the leaver is called");
        self.step = None;
        Ok(())
    }

    fn rejoin(&mut self) -> Result<(), BackendError> {
        self.rejoined += 1;
        match self.rejoined {
            1 => Err(missed()),
            2 => Ok(()),
            _ => Err(BackendError::Device { operation: "rejoining", message: "the device hangs".to_owned() }),
        }
    }
}

fn missing() -> Result<Loaded, LoadError> {
    let told = Arc::new(AtomicBool::new(false));
    let runner = Box::new(Missing { told: Arc::clone(&told), step: None, rejoined: 0 });
    let leaver: backend::Leaver = Arc::new(move || told.store(true, Ordering::SeqCst));
    Ok(Loaded { runner, weight_bytes: 1, kv_bytes: 1, checksums: Vec::new(), leaver: Some(leaver) })
}

async fn rejoin(client: &mut WorkerClient<Channel>) -> Result<pb::Ready, Status> {
    let mut events = client.rejoin(pb::RejoinRequest {}).await?.into_inner();
    while let Some(event) = within(events.next()).await {
        if let Some(pb::load_event::Event::Ready(ready)) = event?.event {
            return Ok(ready);
        }
    }
    panic!("the stream ends without a word");
}

#[tokio::test]
async fn a_rank_that_misses_another_can_leave_and_rejoin() {
    let (channel, served) = start(missing).await;
    let mut client = WorkerClient::new(channel);
    client.leave(pb::LeaveRequest {}).await.expect_err("it is not ready");
    load(&mut client).await.expect("it is ready");
    client.rejoin(pb::RejoinRequest {}).await.expect_err("it has not left");
    for attempt in 0..2 {
        let steps = tokio_stream::once(plan(0)).chain(tokio_stream::pending());
        let mut results = client.run(steps).await.expect("run").into_inner();
        let mut other = client.clone();
        // It leaves in the middle of a step; where it is said that another rank is missed, and nothing else, it goes on.
        let (status, left) = tokio::join!(within(results.next()), within(other.leave(pb::LeaveRequest {})));
        left.expect("it leaves");
        let status = status.expect("an answer").expect_err("the step fails");
        assert_eq!(status.code(), tonic::Code::Aborted, "{status}");
        if attempt == 0 {
            let status = rejoin(&mut client).await.expect_err("the other rank is missed again");
            assert_eq!(status.code(), tonic::Code::Aborted, "{status}");
            client.leave(pb::LeaveRequest {}).await.expect("it leaves again");
            let ready = rejoin(&mut client).await.expect("it is ready");
            assert_eq!((ready.read_bytes, ready.can_rejoin, ready.weight_bytes), (0, true, 1));
        }
    }
    let status = rejoin(&mut client).await.expect_err("its device fails");
    assert_eq!(status.code(), tonic::Code::Internal, "{status}");
    let served = within(served).await.expect("it does not panic");
    assert!(matches!(&served, Err(ServeError::Step(error)) if error.contains("the device hangs")), "{served:?}");
}
