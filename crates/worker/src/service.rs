//! The control protocol, as the worker serves it.

use crate::RankSpec;
use crate::device::{DeviceThread, Open, ReadyInfo, Work};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use step::StepResult;
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
/// What comes of the plans, in their order.
type Results = mpsc::UnboundedReceiver<Result<StepResult, String>>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where the worker is in its life; it only ever goes forward.
enum Stage {
    Born(WithSpec, oneshot::Sender<String>),
    Loading,
    Ready(mpsc::UnboundedSender<Work>, Results),
    /// The way to the device is for pings; it must not keep the device's thread, which ends with its commands.
    Running(mpsc::WeakUnboundedSender<Work>),
}

pub(crate) struct Service {
    stage: Arc<Mutex<Stage>>,
}

impl Service {
    /// `failed` hears when a step has failed: nothing can be run any more.
    pub(crate) fn new(with_spec: WithSpec, failed: oneshot::Sender<String>) -> Self {
        Self { stage: Arc::new(Mutex::new(Stage::Born(with_spec, failed))) }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_load(&self) -> Result<(WithSpec, oneshot::Sender<String>), Status> {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Loading) {
            Stage::Born(with_spec, failed) => Ok((with_spec, failed)),
            other => {
                *stage = other;
                Err(Status::failed_precondition("Load comes once"))
            }
        }
    }

    fn begin_run(&self) -> Result<(mpsc::UnboundedSender<Work>, Results), Status> {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Loading) {
            Stage::Ready(work, results) => {
                *stage = Stage::Running(work.downgrade());
                Ok((work, results))
            }
            other => {
                *stage = other;
                Err(Status::failed_precondition("Run comes once, after Load"))
            }
        }
    }
}

#[tonic::async_trait]
impl Worker for Service {
    type LoadStream = Events<pb::LoadEvent>;
    type RunStream = Events<pb::StepResult>;

    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let spec = RankSpec::try_from(request.into_inner()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (with_spec, failed) = self.begin_load()?;
        let device = DeviceThread::start(spec.rank, with_spec(spec), failed);
        let device = device.map_err(|error| Status::internal(format!("cannot start the device's thread: {error}")))?;
        // One message for each interval of the load.
        let (events_to, events) = mpsc::unbounded_channel();
        tokio::spawn(report_load(device, self.stage.clone(), events_to));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(events))))
    }

    async fn run(&self, request: Request<Streaming<pb::WorkerCommand>>) -> Result<Response<Self::RunStream>, Status> {
        let (work, results) = self.begin_run()?;
        // One error at most.
        let (failed_to, failed) = mpsc::unbounded_channel();
        tokio::spawn(pass_on(request.into_inner(), work, failed_to));
        let results = UnboundedReceiverStream::new(results)
            .map(|result| result.map(wire::result_to_wire).map_err(|error| told(&error)));
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

/// Reports how far the load is, then its outcome; the stage is ready before the coordinator hears of it.
async fn report_load(
    mut device: DeviceThread,
    stage: Arc<Mutex<Stage>>,
    events: mpsc::UnboundedSender<Result<pb::LoadEvent, Status>>,
) {
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let outcome = loop {
        tokio::select! {
            outcome = &mut device.ready => break outcome,
            _ = interval.tick() => {
                if let Some(progress) = device.progress.get() {
                    let event = pb::LoadProgress { bytes_done: progress.done(), bytes_total: progress.total() };
                    // The coordinator may be gone; then the connection's end ends the process.
                    let _ = events.send(Ok(pb::LoadEvent { event: Some(Event::Progress(event)) }));
                }
            }
        }
    };
    let event = match outcome {
        Ok(Ok(info)) => {
            *stage.lock().unwrap_or_else(PoisonError::into_inner) = Stage::Ready(device.work, device.results);
            Ok(pb::LoadEvent { event: Some(Event::Ready(ready(info))) })
        }
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err(Status::internal("the device thread ended without a word")),
    };
    let _ = events.send(event);
}

fn ready(ReadyInfo { weight_bytes, kv_bytes, checksums }: ReadyInfo) -> pb::Ready {
    let checksums = checksums.into_iter();
    let checksums = checksums.map(|TensorChecksum { file, tensor, crc32 }| pb::TensorChecksum { file, tensor, crc32 });
    pb::Ready { weight_bytes, kv_bytes, checksums: checksums.collect() }
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
                let _ = failed.send(told(&format!("a command that cannot be read: {error}")));
                return;
            }
        }
    }
}

/// An error as it is sent to the coordinator.
fn told(error: &str) -> Status {
    match error.len() {
        0..=ERROR_BYTES_MAX => Status::internal(error),
        len => {
            let end = error.floor_char_boundary(ERROR_BYTES_MAX);
            Status::internal(format!("{} … ({} bytes more)", &error[..end], len - end))
        }
    }
}
