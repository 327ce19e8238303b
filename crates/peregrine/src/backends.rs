//! The only place that knows which backends there are.

use crate::benchmarks::instant;
use anyhow::{Context, Result, bail, ensure};
use backend::{Alone, BackendError, Collective, Reference};
use backend_cpu::{Cpu, CpuOptions, Isa, SharedMemory, own_cores};
use backend_cuda::{
    AllReduceChoice, CUBLASLT, Cuda, CudaOptions, DiscoverError, LIBRARY_PATH, Libraries, NCCL, Neighbours, SYSFS,
    cpu_list, discover,
};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use coordinator::Rendezvous;
use rustix::param::linux_execfn;
use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use worker::{LoadError, LoadProgress, Loaded, RankSpec};

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// NVIDIA GPUs where there is one for each rank, else the processor.
    Auto,
    /// Vectorized kernels on the processor.
    Cpu,
    /// Plain code on the processor: slow, and what the others are checked against.
    Reference,
    /// NVIDIA GPUs.
    Cuda,
    /// No model: tokens at once, for benchmarks of all else.
    #[value(hide = true)]
    Instant,
}

impl BackendName {
    /// The backend that runs `world` ranks for this choice.
    pub fn resolve(self, world: usize) -> Result<&'static str> {
        match self {
            Self::Cpu => Ok("cpu"),
            Self::Reference => Ok("reference"),
            Self::Instant => Ok("instant"),
            Self::Cuda => gpus(world).context("--backend cuda").map(|()| "cuda"),
            Self::Auto => match gpus(world) {
                Ok(()) => Ok("cuda"),
                // Most machines have none, which is no news.
                Err(DiscoverError::NoDriver) => Ok("cpu"),
                Err(error) => {
                    tracing::warn!("the model runs on the processor: {error}");
                    Ok("cpu")
                }
            },
        }
    }
}

/// Whether there is a GPU for each rank.
fn gpus(world: usize) -> Result<(), DiscoverError> {
    discover()?.for_ranks(world).map(|_| ())
}

/// How ranks use GPUs.
#[derive(Args, Clone, Debug, Default)]
pub struct CudaArgs {
    /// How the ranks' sums are made: auto takes kernels that read the other GPUs' memory, where that is possible. (cuda)
    #[arg(long, value_enum, value_name = "HOW", default_value_t = AllReduce::Auto)]
    all_reduce: AllReduce,
    /// A request's tokens do not depend on other requests or on chunks of its prompt, to the bit; slower. (cuda; the cpu
    /// backend is always so)
    #[arg(long)]
    deterministic: bool,
    /// Let each rank run on all processors, and not only on those next to its GPU. (cuda)
    #[arg(long)]
    no_cpu_binding: bool,
    /// Record the steps in which every request adds one token, and launch each at once. (cuda)
    #[arg(long, value_enum, value_name = "ON", default_value_t = Switch::On)]
    cuda_graphs: Switch,
    /// Begin a step while the GPUs work on the one before. (cuda)
    #[arg(long, value_enum, value_name = "ON", default_value_t = Switch::On, hide = true)]
    run_ahead: Switch,
    /// Wait for each kernel, so that an error names the one that met it. (cuda)
    #[arg(long, hide = true)]
    check_launches: bool,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is.
    #[default]
    On,
    /// It is not.
    Off,
}

/// How the ranks' sums are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AllReduce {
    /// The fastest that the machine allows.
    #[default]
    Auto,
    /// Kernels in which each rank reads all partial sums of the others.
    OneShot,
    /// Kernels in which each rank sums a share, and reads the sums of the others.
    TwoShot,
    /// NCCL.
    Nccl,
}

impl CudaArgs {
    fn options(&self, spec: &RankSpec) -> CudaOptions {
        CudaOptions {
            all_reduce: match self.all_reduce {
                AllReduce::Auto => AllReduceChoice::Auto,
                AllReduce::OneShot => AllReduceChoice::OneShot,
                AllReduce::TwoShot => AllReduceChoice::TwoShot,
                AllReduce::Nccl => AllReduceChoice::Nccl,
            },
            deterministic: self.deterministic,
            graphs: self.cuda_graphs == Switch::On,
            run_ahead: self.run_ahead == Switch::On,
            check_launches: self.check_launches,
            wait_limit: spec.collective_limit,
            step_limit: spec.step_limit,
            ..CudaOptions::new(spec.rank)
        }
    }

    /// What differs from the defaults, as arguments of a worker.
    fn arguments(&self) -> Vec<OsString> {
        let name = |choice: Option<PossibleValue>| choice.expect("no choice is skipped").get_name().to_owned();
        let usual = Self::default();
        let choices = [
            ("--all-reduce", self.all_reduce != usual.all_reduce, self.all_reduce.to_possible_value()),
            ("--cuda-graphs", self.cuda_graphs != usual.cuda_graphs, self.cuda_graphs.to_possible_value()),
            ("--run-ahead", self.run_ahead != usual.run_ahead, self.run_ahead.to_possible_value()),
        ];
        let changed = choices.into_iter().filter(|(_, changed, _)| *changed);
        let mut arguments: Vec<_> = changed.flat_map(|(flag, _, choice)| [flag.to_owned(), name(choice)]).collect();
        let flags = [
            ("--deterministic", self.deterministic),
            ("--no-cpu-binding", self.no_cpu_binding),
            ("--check-launches", self.check_launches),
        ];
        arguments.extend(flags.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.to_owned()));
        arguments.into_iter().map(OsString::from).collect()
    }
}

/// The name of an instruction set, if this processor has it.
pub fn isa(name: &str) -> Result<String> {
    let isa: Isa = name.parse()?;
    if !isa.supported() {
        bail!("this processor does not have {isa}");
    }
    Ok(name.to_owned())
}

/// How a rank uses the processor: on its own cores, where there are enough for all ranks.
pub fn cpu_options(rank: usize, world: usize, threads: usize, isa: Option<Isa>) -> CpuOptions {
    CpuOptions { threads, isa, cores: own_cores(rank, world) }
}

/// How `world` workers are started and where they meet.
pub struct Launch {
    /// The program of a worker: this one.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that are set for it.
    pub environment: Vec<(OsString, OsString)>,
    /// Where they meet.
    pub rendezvous: Rendezvous,
}

/// What the ranks on GPUs rest on. What the user has set stays.
const CUDA_ENVIRONMENT: [(&str, &str); 5] = [
    // Rank 0 has the first GPU that nvidia-smi lists, and so on.
    ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    // A kernel that is loaded at its first launch waits for kernels that wait for other ranks.
    ("CUDA_MODULE_LOADING", "EAGER"),
    // All ranks are on this machine: no network plugin is looked for, and nothing can be reached from outside.
    ("NCCL_NET", "Socket"),
    ("NCCL_SOCKET_IFNAME", "lo"),
    ("NCCL_DEBUG", "WARN"),
];

/// This program's file. Where there is no /proc to tell it, as it was called.
fn program() -> Result<PathBuf> {
    std::env::current_exe()
        .or_else(|error| {
            let called = Path::new(OsStr::from_bytes(linux_execfn().to_bytes()));
            if called.is_file() { std::path::absolute(called) } else { Err(error) }
        })
        .context("cannot tell where this program is, to start workers")
}

impl Launch {
    /// For ranks on this machine.
    pub fn new(backend: &str, world: usize, cuda: &CudaArgs) -> Result<Self> {
        let mut arguments = vec![OsString::from("worker")];
        arguments.extend(cuda.arguments());
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        let mut set_default = |name: &str, value: &str| {
            if std::env::var_os(name).is_none() {
                environment.push((name.into(), value.into()));
            }
        };
        // Workers say as much as their coordinator, whose default is not theirs.
        if tracing::enabled!(tracing::Level::INFO) {
            set_default("PEREGRINE_LOG", "info");
        }
        if backend == "cuda" {
            CUDA_ENVIRONMENT.iter().for_each(|(name, value)| set_default(name, value));
        }
        let mut keep: Vec<Box<dyn Any + Send + Sync>> = Vec::new();
        let mut address = String::new();
        if world > 1 {
            let memory = SharedMemory::create(world)?;
            address = memory.path();
            keep.push(Box::new(memory));
        }
        if backend == "cuda" {
            let wanted: &[_] = if world > 1 { &[&CUBLASLT, &NCCL] } else { &[&CUBLASLT] };
            let libraries = Libraries::find(wanted).context("looking for NVIDIA's libraries")?;
            for (library, told) in libraries.missing() {
                ensure!(library.name != NCCL.name || cuda.all_reduce != AllReduce::Nccl, "--all-reduce nccl: {told}");
            }
            environment.extend(libraries.library_path().map(|path| (LIBRARY_PATH.into(), path)));
            keep.push(Box::new(libraries));
        }
        let rendezvous = Rendezvous { address, keep: Box::new(keep) };
        Ok(Self { program: program()?, arguments, environment, rendezvous })
    }
}

/// Opens the device that `spec` asks for, and loads it.
pub fn open_rank(spec: &RankSpec, cuda: &CudaArgs, progress: &LoadProgress) -> Result<Loaded, LoadError> {
    let collective: Box<dyn Collective> = if spec.world == 1 {
        Box::new(Alone)
    } else {
        let address = Path::new(&spec.rendezvous);
        let joined = SharedMemory::join(address, spec.rank, spec.world, spec.collective_limit);
        Box::new(joined.map_err(BackendError::from)?)
    };
    let failed = |message: String| LoadError::Open { backend: spec.backend.clone(), message };
    match &*spec.backend {
        "cpu" => {
            let isa = spec.isa.as_deref().map(str::parse).transpose().map_err(|error| failed(format!("{error}")))?;
            let options = cpu_options(spec.rank, spec.world, spec.threads, isa);
            worker::load(Cpu::new(&options, collective)?, spec, progress)
        }
        "reference" => worker::load(Reference::new(collective), spec, progress),
        "instant" => Ok(instant::load()),
        "cuda" => {
            if !cuda.no_cpu_binding {
                bind_next_to_gpu(spec.rank);
            }
            worker::load(Cuda::new(&cuda.options(spec), collective)?, spec, progress)
        }
        _ => Err(failed("there is no such backend".to_owned())),
    }
}

/// Binds this process to the processors next to its GPU. Where that fails it is slower, and goes on.
fn bind_next_to_gpu(rank: usize) {
    let Ok(gpus) = discover() else { return };
    let neighbours = gpus.all.get(rank).and_then(|gpu| Neighbours::of(gpu, Path::new(SYSFS)));
    let Some(neighbours) = neighbours else {
        tracing::debug!("rank {rank}: the system does not say which processors are next to the GPU");
        return;
    };
    match neighbours.bind_process() {
        Ok(0) => tracing::info!("rank {rank}: may not run on the processors next to its GPU"),
        Ok(_) => tracing::info!("rank {rank}: bound to processors {}", cpu_list(&neighbours.cpus)),
        Err(error) => tracing::warn!("rank {rank}: binding to the processors next to its GPU: {error}"),
    }
}
