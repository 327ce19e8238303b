//! Starting a coordinator with its workers, and running sequences on it.

use crate::{amx, standin};
use backend_cpu::{Isa, SharedMemory};
use coordinator::{
    Coordinator, CoordinatorConfig, ProcessConfig, Rendezvous, RestartLimits, Status, Submission, Update, Workers,
};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use step::{Priority, SamplingParams};
use testkit::goldens::{Observed, model_dir};
use tokio::task::JoinSet;

/// How long a model may take to load, or a sequence to bring its next token. Only a hang takes that long.
const LIMIT: Duration = Duration::from_secs(300);

/// One way to run a model.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// One of those that have goldens.
    pub model: &'static str,
    /// Name of the backend. `cuda` runs over the stand-in.
    pub backend: &'static str,
    /// Instruction set, or the best that there is.
    pub isa: Option<Isa>,
    /// The tensor-parallel degree.
    pub world: usize,
    /// Flags of the workers.
    pub flags: &'static [&'static str],
}

impl Setup {
    /// With the best instruction set, and no flags.
    pub fn new(model: &'static str, backend: &'static str, world: usize) -> Self {
        Self { model, backend, isa: None, world, flags: &[] }
    }

    /// The program of a worker, its arguments and its variables.
    fn worker(self) -> (PathBuf, Vec<OsString>, Vec<(OsString, OsString)>) {
        if self.isa == Some(Isa::Amx) && !amx::is_native() {
            let (arguments, environment) = amx::worker();
            return (std::env::current_exe().expect("this program has a file"), arguments, environment);
        }
        let environment = match self.backend {
            "cuda" => standin::environment().map(|(name, value)| (name.into(), value.into())).to_vec(),
            _ => Vec::new(),
        };
        let arguments = ["worker"].iter().chain(self.flags).map(OsString::from).collect();
        (env!("CARGO_BIN_EXE_peregrine").into(), arguments, environment)
    }

    /// Starts the workers and waits until they are ready.
    pub async fn start(self) -> Coordinator {
        self.start_with(|_| ()).await
    }

    /// The same, with other limits than usual.
    pub async fn start_with(self, change: impl FnOnce(&mut CoordinatorConfig)) -> Coordinator {
        let mut config = CoordinatorConfig {
            world: self.world,
            kv_blocks: 1024,
            step_rows_max: 512,
            sequences_max: 64,
            steps_in_flight_max: 2,
            prefix_cache: true,
            itl_bound: None,
            step_limit: LIMIT,
            pause_limit: LIMIT,
            load_limit: LIMIT,
            restarts: RestartLimits::NEVER,
            check_invariants: true,
        };
        change(&mut config);
        let (program, arguments, environment) = self.worker();
        let world = self.world;
        let memory = move || SharedMemory::create(world).map_err(std::io::Error::other);
        let processes = ProcessConfig {
            program,
            name: "worker".into(),
            arguments,
            environment,
            tied: weights::read_config(&model_dir(self.model)).expect("a config").tied,
            model_dir: model_dir(self.model),
            backend: self.backend.to_owned(),
            threads_per_rank: 1,
            isa: self.isa.map(|isa| isa.to_string()),
            collective_limit: LIMIT,
            rendezvous: (self.world > 1).then(|| Box::new(memory) as Box<dyn Rendezvous>),
            keep: Box::new(()),
        };
        let coordinator = Coordinator::start(config, Workers::Processes(Box::new(processes)), Arc::new(()));
        let mut status = coordinator.status();
        let loaded = status.wait_for(|status| !matches!(status, Status::Loading { .. }));
        let loaded = tokio::time::timeout(LIMIT, loaded).await.expect("no hang").expect("it runs").clone();
        assert!(matches!(loaded, Status::Ready { .. }), "{self:?}: {loaded:?}");
        coordinator
    }
}

/// Ends the workers and waits for that.
pub async fn stop(coordinator: &Coordinator) {
    coordinator.drain();
    assert_eq!(coordinator.ended().await, Status::Stopped);
}

/// A sequence of exactly so many new tokens, of which nothing but the tokens is wanted.
pub fn submission(prompt: &[u32], max_new_tokens: usize, sampling: SamplingParams) -> Submission {
    Submission {
        prompt: prompt.to_vec(),
        max_new_tokens,
        eos: Vec::new(),
        stop_token_ids: Vec::new(),
        min_tokens: 0,
        sampling,
        priority: Priority::Normal,
        prompt_logprobs: false,
        top_n: 0,
        return_logits: false,
    }
}

/// Runs one sequence to its last token.
pub async fn observe(coordinator: &Coordinator, submission: Submission) -> Observed {
    observe_while(coordinator, submission, |_| true).await
}

/// Runs one sequence to its last token, or to the first with which the tokens so far are no more as they should be.
pub async fn observe_while(
    coordinator: &Coordinator,
    submission: Submission,
    goes_on: impl Fn(&[u32]) -> bool,
) -> Observed {
    let mut generation = coordinator.submit(submission).expect("it is ready");
    let mut observed = Observed::default();
    loop {
        match tokio::time::timeout(LIMIT, generation.next()).await.expect("no hang") {
            Some(Update::Started { .. } | Update::Step(_)) => {}
            Some(Update::PromptLogprobs(logprobs)) => observed.prompt_logprobs.extend(logprobs),
            Some(Update::Token { sample, finish }) => {
                observed.tokens.push(sample.token.id);
                observed.logprobs.push(sample.token.score.logprob);
                observed.logits.push(sample.logits);
                if finish.is_some() || !goes_on(&observed.tokens) {
                    return observed;
                }
            }
            Some(Update::Failed { reason } | Update::Lost { reason }) => panic!("{reason}"),
            None => panic!("the stream ended early"),
        }
    }
}

/// Runs all sequences at once and returns what they bring, in their order.
pub async fn observe_all(coordinator: &Coordinator, submissions: Vec<Submission>) -> Vec<Observed> {
    let mut tasks = JoinSet::new();
    for (index, submission) in submissions.into_iter().enumerate() {
        let coordinator = coordinator.clone();
        tasks.spawn(async move { (index, observe(&coordinator, submission).await) });
    }
    let mut observed = tasks.join_all().await;
    observed.sort_by_key(|(index, _)| *index);
    observed.into_iter().map(|(_, observed)| observed).collect()
}
