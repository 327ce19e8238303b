//! The control protocol, as the worker serves it.

use crate::RankSpec;
use crate::device::{DeviceThread, Open, ReadyInfo};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use step::{Command, StepResult};
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

/// Where the worker is in its life; it only ever goes forward.
enum Stage {
    Born(WithSpec, oneshot::Sender<String>),
    Loading,
    Ready(mpsc::UnboundedSender<Command>, mpsc::UnboundedReceiver<Result<StepResult, String>>),
    Running,
}

pub(crate) struct Service {
    stage: Arc<Mutex<Stage>>,
}

impl Service {
    /// `failed` hears when a step has failed: nothing can be run any more.
    pub(crate) fn new(with_spec: WithSpec, failed: oneshot::Sender<String>) -> Self {
        Self { stage: Arc::new(Mutex::new(Stage::Born(with_spec, failed))) }
    }
}

/// Moves to `next` if the stage is one from which `take` takes something.
fn advance<T>(
    stage: &Mutex<Stage>,
    next: Stage,
    take: impl FnOnce(Stage) -> Result<T, Stage>,
    expected: &'static str,
) -> Result<T, Status> {
    let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
    match take(std::mem::replace(&mut *stage, next)) {
        Ok(taken) => Ok(taken),
        Err(unchanged) => {
            *stage = unchanged;
            Err(Status::failed_precondition(expected))
        }
    }
}

#[tonic::async_trait]
impl Worker for Service {
    type LoadStream = Events<pb::LoadEvent>;
    type RunStream = Events<pb::StepResult>;

    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let spec = RankSpec::try_from(request.into_inner()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let born = |stage| match stage {
            Stage::Born(with_spec, failed) => Ok((with_spec, failed)),
            other => Err(other),
        };
        let (with_spec, failed) = advance(&self.stage, Stage::Loading, born, "Load comes once")?;
        let device = DeviceThread::start(spec.rank, with_spec(spec), failed);
        let device = device.map_err(|error| Status::internal(format!("cannot start the device's thread: {error}")))?;
        // One message for each interval of the load.
        let (events_to, events) = mpsc::unbounded_channel();
        tokio::spawn(report_load(device, self.stage.clone(), events_to));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(events))))
    }

    async fn run(&self, request: Request<Streaming<pb::WorkerCommand>>) -> Result<Response<Self::RunStream>, Status> {
        let ready = |stage| match stage {
            Stage::Ready(commands, results) => Ok((commands, results)),
            other => Err(other),
        };
        let (commands, results) = advance(&self.stage, Stage::Running, ready, "Run comes once, after Load")?;
        // One error at most.
        let (failed_to, failed) = mpsc::unbounded_channel();
        tokio::spawn(pass_on(request.into_inner(), commands, failed_to));
        let results = UnboundedReceiverStream::new(results)
            .map(|result| result.map(wire::result_to_wire).map_err(|error| told(&error)));
        // The device's results, and the error for a command that could not be read.
        let answers = results.merge(UnboundedReceiverStream::new(failed).map(Err));
        Ok(Response::new(Box::pin(answers)))
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
            *stage.lock().unwrap_or_else(PoisonError::into_inner) = Stage::Ready(device.commands, device.results);
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
    commands: mpsc::UnboundedSender<Command>,
    failed: mpsc::UnboundedSender<Status>,
) {
    while let Some(message) = inbound.next().await {
        let message = message.map_err(|status| status.message().to_owned());
        match message.and_then(|message| wire::command_from_wire(message).map_err(|error| error.to_string())) {
            // A device that has failed takes no more commands, and has said so.
            Ok(command) => drop(commands.send(command)),
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
