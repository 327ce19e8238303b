//! The control protocol, as the worker serves it.

use crate::RankSpec;
use crate::device::{Device, Open, ReadyInfo};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use step::StepResult;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use wire::Command;
use wire::control::{self as pb, load_event::Event, worker_server::Worker};

const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

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
        let device = Device::start(spec.rank, with_spec(spec), failed);
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
        let (failed_to, failed) = mpsc::unbounded_channel();
        tokio::spawn(pass_on(request.into_inner(), commands, failed_to));
        let results = UnboundedReceiverStream::new(results)
            .map(|result| result.map(wire::result_to_wire).map_err(Status::internal));
        // The device's results, and the error for a command that could not be read.
        let answers = results.merge(UnboundedReceiverStream::new(failed).map(Err));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Reports how far the load is, then its outcome; the stage is ready before the coordinator hears of it.
async fn report_load(
    mut device: Device,
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
        Ok(Ok(ReadyInfo { weight_bytes, kv_bytes })) => {
            *stage.lock().unwrap_or_else(PoisonError::into_inner) = Stage::Ready(device.commands, device.results);
            Ok(pb::LoadEvent { event: Some(Event::Ready(pb::Ready { weight_bytes, kv_bytes })) })
        }
        Ok(Err(error)) => Err(Status::internal(error)),
        Err(_) => Err(Status::internal("the device thread ended without a word")),
    };
    let _ = events.send(event);
}

async fn pass_on(
    mut inbound: Streaming<pb::WorkerCommand>,
    commands: mpsc::UnboundedSender<Command>,
    failed: mpsc::UnboundedSender<Status>,
) {
    while let Some(Ok(message)) = inbound.next().await {
        match wire::command_from_wire(message) {
            // A device that has failed takes no more commands, and has said so.
            Ok(command) => drop(commands.send(command)),
            Err(error) => drop(failed.send(Status::invalid_argument(error.to_string()))),
        }
    }
}
