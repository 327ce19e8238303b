//! A rank whose device fails tells the coordinator so, and does not go on.

use forward::StepError;
use hyper_util::rt::TokioIo;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;
use step::{SampleMask, StepId, StepPlan, StepResult};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tower::service_fn;
use wire::control as pb;
use wire::control::worker_client::WorkerClient;
use worker::{Loaded, Rank, ServeError};

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs one step well, and two at a time; the next one never ends, until it is an error.
#[derive(Default)]
struct Failing {
    begun: Vec<StepId>,
    polls: usize,
}

impl Rank for Failing {
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
                Ok(Some(StepResult { step: StepId(0), outputs: Vec::new(), device_time_us: 1 }))
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

#[tokio::test]
async fn a_failed_step_is_the_last_answer_and_the_end() {
    let (ours, theirs) = StdUnixStream::pair().expect("a pair of sockets");
    let open = |_: &_, _: &_| Ok(Loaded { rank: Box::<Failing>::default(), weight_bytes: 1, kv_bytes: 1 });
    let served = tokio::spawn(worker::serve(theirs, open));
    ours.set_nonblocking(true).expect("a socket");
    let mut socket = Some(UnixStream::from_std(ours).expect("a socket"));
    let connector = service_fn(move |_| {
        let gone = || std::io::Error::new(std::io::ErrorKind::NotConnected, "it is gone");
        std::future::ready(socket.take().map(TokioIo::new).ok_or_else(gone))
    });
    let channel = Endpoint::from_static("http://worker").connect_with_connector(connector).await.expect("connect");
    let mut client = WorkerClient::new(channel);
    let spec = pb::LoadRequest { world: 1, kv_blocks: 1, step_rows_max: 1, threads: 1, ..pb::LoadRequest::default() };
    let mut load = client.load(spec).await.expect("load").into_inner();
    while load.next().await.is_some_and(|event| event.expect("an event").event.is_some()) {}

    let (commands, commands_from) = mpsc::unbounded_channel();
    // The second plan is there before the first has a result: this rank gives none sooner.
    for step in [0, 1] {
        commands.send(plan(step)).expect("the stream is open");
    }
    let mut results = client.run(UnboundedReceiverStream::new(commands_from)).await.expect("run").into_inner();
    let first = tokio::time::timeout(LIMIT, results.next()).await.expect("a result").expect("a result");
    assert_eq!(first.expect("a result").step, 0);
    let second = tokio::time::timeout(LIMIT, results.next()).await.expect("an answer").expect("an answer");
    let status = second.expect_err("the step fails");
    assert!(status.message().contains("step 1") && status.message().contains("the device hangs"), "{status}");
    // The connection stays open on this side, and the worker ends all the same.
    let served = tokio::time::timeout(LIMIT, served).await.expect("it ends").expect("it does not panic");
    assert!(matches!(&served, Err(ServeError::Step(error)) if error.contains("the device hangs")), "{served:?}");
    drop(commands);
}
