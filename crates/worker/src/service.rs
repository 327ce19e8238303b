//! The control protocol, as the worker serves it.

use crate::device::{Answer, DeviceThread, Fault, Open, Order, ReadyInfo, Work};
use crate::{LoadProgress, RankSpec};
use backend::Leaver;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use weights::TensorChecksum;
use wire::control::{self as pb, load_event::Event, worker_server::Worker};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of an error that the coordinator is told. They travel as a header, where a byte may take three and 16 KiB are the most.
const ERROR_BYTES_MAX: usize = 4096;

type WithSpec = Box<dyn FnOnce(RankSpec) -> Open + Send>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where the worker is in its life.
enum Stage {
    Born(WithSpec, oneshot::Sender<String>),
    /// Or it rejoins.
    Loading,
    Ready,
    /// The way to the device is for pings; it must not keep the run, which ends with its commands.
    Running(mpsc::WeakUnboundedSender<Work>),
    /// It has left the other ranks.
    Left,
}

/// What stays the same once the device's thread has been started.
struct Device {
    orders: mpsc::UnboundedSender<Order>,
    progress: Arc<LoadProgress>,
    /// Set once it has been ready, if it can leave the other ranks.
    leaver: OnceLock<Leaver>,
}

impl Device {
    /// Bytes read of files.
    fn read(&self) -> u64 {
        self.progress.get().map_or(0, |progress| progress.done())
    }
}

pub(crate) struct Service {
    stage: Arc<Mutex<Stage>>,
    device: OnceLock<Arc<Device>>,
}

impl Service {
    /// `failed` hears when the device has failed: nothing can be run any more.
    pub(crate) fn new(with_spec: WithSpec, failed: oneshot::Sender<String>) -> Self {
        Self { stage: Arc::new(Mutex::new(Stage::Born(with_spec, failed))), device: OnceLock::new() }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves to `next` if the stage is one from which `take` takes something.
    fn advance<T>(
        &self,
        next: Stage,
        take: impl FnOnce(Stage) -> Result<T, Stage>,
        expected: &'static str,
    ) -> Result<T, Status> {
        let mut stage = self.stage();
        take(std::mem::replace(&mut *stage, next)).map_err(|unchanged| {
            *stage = unchanged;
            Status::failed_precondition(expected)
        })
    }

    fn device(&self) -> Result<&Arc<Device>, Status> {
        self.device.get().ok_or_else(|| Status::failed_precondition("Load comes first"))
    }

    fn order(&self, order: Order) -> Result<(), Status> {
        self.device()?.orders.send(order).map_err(|_| ended())
    }
}

fn ended() -> Status {
    Status::internal("the device thread ended without a word")
}

#[tonic::async_trait]
impl Worker for Service {
    type LoadStream = Events<pb::LoadEvent>;
    type RejoinStream = Events<pb::LoadEvent>;
    type RunStream = Events<pb::StepResult>;

    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let spec = RankSpec::try_from(request.into_inner()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let born = |stage| match stage {
            Stage::Born(with_spec, failed) => Ok((with_spec, failed)),
            other => Err(other),
        };
        let (with_spec, failed) = self.advance(Stage::Loading, born, "Load comes once")?;
        let device = DeviceThread::start(spec.rank, with_spec(spec), failed);
        let device = device.map_err(|error| Status::internal(format!("cannot start the device's thread: {error}")))?;
        let DeviceThread { progress, ready, orders } = device;
        let device = self.device.get_or_init(|| Arc::new(Device { orders, progress, leaver: OnceLock::new() }));
        Ok(report_load(device, ready, &self.stage))
    }

    async fn leave(&self, _: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveReply>, Status> {
        let leaver = self.device()?.leaver.get();
        leaver.ok_or_else(|| Status::failed_precondition("Leave is for ranks that can rejoin, once they are ready"))?();
        let (left_to, left) = oneshot::channel();
        self.order(Order::Leave(left_to))?;
        left.await.map_err(|_| ended())?.map_err(|fault| told(&fault))?;
        *self.stage() = Stage::Left;
        Ok(Response::new(pb::LeaveReply {}))
    }

    async fn rejoin(&self, _: Request<pb::RejoinRequest>) -> Result<Response<Self::RejoinStream>, Status> {
        let left = |stage| if matches!(stage, Stage::Left) { Ok(()) } else { Err(stage) };
        self.advance(Stage::Loading, left, "Rejoin comes after Leave")?;
        let (ready_to, ready) = oneshot::channel();
        self.order(Order::Rejoin(ready_to))?;
        Ok(report_load(self.device()?, ready, &self.stage))
    }

    async fn run(&self, request: Request<Streaming<pb::WorkerCommand>>) -> Result<Response<Self::RunStream>, Status> {
        let ready = |stage| if matches!(stage, Stage::Ready) { Ok(()) } else { Err(stage) };
        let (work, work_from) = mpsc::unbounded_channel();
        let (results_to, results) = mpsc::unbounded_channel();
        self.advance(Stage::Running(work.downgrade()), ready, "Run comes once, after Load or Rejoin")?;
        self.order(Order::Run { work: work_from, results: results_to })?;
        // One error at most.
        let (failed_to, failed) = mpsc::unbounded_channel();
        tokio::spawn(pass_on(request.into_inner(), work, failed_to));
        let results = UnboundedReceiverStream::new(results)
            .map(|result| result.map(wire::result_to_wire).map_err(|fault| told(&fault)));
        // The device's results, and the error for a command that could not be read.
        let answers = results.merge(UnboundedReceiverStream::new(failed).map(Err));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn ping(&self, _: Request<pb::PingRequest>) -> Result<Response<pb::PingResponse>, Status> {
        let gone = || Status::failed_precondition("there is no device that takes work");
        let work = match &*self.stage() {
            Stage::Running(work) => work.upgrade(),
            _ => None,
        };
        let (answer, answered) = oneshot::channel();
        work.ok_or_else(gone)?.send(Work::Ping(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?;
        Ok(Response::new(pb::PingResponse {}))
    }
}

/// Tells how far the load is, then its outcome; the stage is ready before the coordinator hears of it.
fn report_load(
    device: &Arc<Device>,
    mut ready: oneshot::Receiver<Answer<ReadyInfo>>,
    stage: &Arc<Mutex<Stage>>,
) -> Response<Events<pb::LoadEvent>> {
    let (device, stage, before) = (Arc::clone(device), Arc::clone(stage), device.read());
    // One message for each interval of the load.
    let (events, events_from) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
        let outcome = loop {
            tokio::select! {
                outcome = &mut ready => break outcome,
                _ = interval.tick() => {
                    if let Some(progress) = device.progress.get() {
                        let event = pb::LoadProgress { bytes_done: progress.done(), bytes_total: progress.total() };
                        // The coordinator may be gone; then the connection's end ends the process.
                        let _ = events.send(Ok(pb::LoadEvent { event: Some(Event::Progress(event)) }));
                    }
                }
            }
        };
        let event = outcome.map_err(|_| ended()).and_then(|outcome| outcome.map_err(|fault| told(&fault)));
        let event = event.map(|info| {
            if let Some(leaver) = &info.leaver {
                let _ = device.leaver.set(Arc::clone(leaver));
            }
            let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            // It may have been told to leave meanwhile.
            if matches!(*stage, Stage::Loading) {
                *stage = Stage::Ready;
            }
            pb::LoadEvent { event: Some(Event::Ready(to_wire(info, device.read() - before))) }
        });
        let _ = events.send(event);
    });
    Response::new(Box::pin(UnboundedReceiverStream::new(events_from)))
}

fn to_wire(info: ReadyInfo, read_bytes: u64) -> pb::Ready {
    let ReadyInfo { weight_bytes, kv_bytes, checksums, leaver } = info;
    let checksums = checksums.into_iter();
    let checksums = checksums.map(|TensorChecksum { file, tensor, crc32 }| pb::TensorChecksum { file, tensor, crc32 });
    pb::Ready { weight_bytes, kv_bytes, checksums: checksums.collect(), read_bytes, can_rejoin: leaver.is_some() }
}

/// Passes commands on to the device, until the stream ends. A message that is no command ends it, and the coordinator gets an
/// error.
async fn pass_on(
    mut inbound: Streaming<pb::WorkerCommand>,
    work: mpsc::UnboundedSender<Work>,
    failed: mpsc::UnboundedSender<Status>,
) {
    while let Some(message) = inbound.next().await {
        let message = message.map_err(|status| status.message().to_owned());
        match message.and_then(|message| wire::command_from_wire(message).map_err(|error| error.to_string())) {
            // A device that has failed takes no more commands, and has said so.
            Ok(command) => drop(work.send(Work::Run(command))),
            Err(error) => {
                // Nobody listens once the connection is gone, and then the process ends.
                let error = format!("a command that cannot be read: {error}");
                let _ = failed.send(told(&Fault { error, by_others: false }));
                return;
            }
        }
    }
}

/// A fault as it is sent to the coordinator: where another rank is missed, as `aborted`.
fn told(Fault { error, by_others }: &Fault) -> Status {
    let text = match error.len() {
        0..=ERROR_BYTES_MAX => error.clone(),
        len => {
            let end = error.floor_char_boundary(ERROR_BYTES_MAX);
            format!("{} … ({} bytes more)", &error[..end], len - end)
        }
    };
    if *by_others { Status::aborted(text) } else { Status::internal(text) }
}
