//! The only place that knows which backends there are.

use crate::{EngineError, gpu_traces, instant};
use backend::{BackendError, Collective, Reference, SingleRank};
use backend_cpu::{Cpu, CpuOptions, Isa, SharedMemory, own_cores};
use backend_cuda::{AllReduceChoice, Cuda, CudaOptions, DiscoverError, GpuLocality, SYSFS, cpu_list, discover};
use std::os::fd::OwnedFd;
use std::path::Path;
use worker::{LoadError, LoadProgress, Loaded, RankSpec};

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// NVIDIA GPUs where there is one for each rank, else the CPU.
    #[default]
    Auto,
    /// Vectorized kernels on the CPU.
    Cpu,
    /// Plain code on the CPU: slow, and what the others are checked against.
    Reference,
    /// NVIDIA GPUs.
    Cuda,
    /// No model: tokens at once, for benchmarks of all else.
    Instant,
}

impl BackendChoice {
    /// The backend that runs `world` ranks for this choice.
    pub(crate) fn resolve(self, world: usize) -> Result<&'static str, EngineError> {
        match self {
            Self::Cpu => Ok("cpu"),
            Self::Reference => Ok("reference"),
            Self::Instant => Ok("instant"),
            Self::Cuda => gpus(world).map(|()| "cuda").map_err(EngineError::Gpus),
            Self::Auto => match gpus(world) {
                Ok(()) => Ok("cuda"),
                Err(error) => {
                    let trace = gpu_traces().map(|trace| format!("; there is a GPU, by {trace}"));
                    match (&error, &trace) {
                        // Most machines have none.
                        (DiscoverError::NoDriver, None) => tracing::info!("the model runs on the CPUs: {error}"),
                        _ => {
                            let trace = trace.unwrap_or_default();
                            tracing::warn!("the model runs on the CPUs: {error}{trace}; --require-gpu would refuse");
                        }
                    }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaSettings {
    /// How the ranks' sums are made.
    pub all_reduce: AllReduceChoice,
    /// One order of every sum, whatever the batch and the chunks of a prompt.
    pub deterministic: bool,
    /// Bind each rank to the CPUs next to its GPU.
    pub cpu_binding: bool,
    /// Record the steps in which every sequence has one row, and launch each at once.
    pub graphs: bool,
    /// Begin a step while the GPUs work on the one before.
    pub run_ahead: bool,
    /// Wait for each kernel, so that an error names the one that met it.
    pub check_launches: bool,
}

impl Default for CudaSettings {
    fn default() -> Self {
        Self {
            all_reduce: AllReduceChoice::Auto,
            deterministic: false,
            cpu_binding: true,
            graphs: true,
            run_ahead: true,
            check_launches: false,
        }
    }
}

impl CudaSettings {
    fn options(&self, spec: &RankSpec) -> CudaOptions {
        CudaOptions {
            all_reduce: self.all_reduce,
            deterministic: self.deterministic,
            graphs: self.graphs,
            run_ahead: self.run_ahead,
            check_launches: self.check_launches,
            wait_limit: spec.collective_limit,
            step_limit: spec.step_limit,
            ..CudaOptions::new(spec.rank)
        }
    }
}

/// How rank `rank` of `world` uses the CPU: on its own cores, where there are enough for all ranks.
#[must_use]
pub fn cpu_options(rank: usize, world: usize, threads: usize, isa: Option<Isa>) -> CpuOptions {
    CpuOptions { threads, isa, cores: own_cores(rank, world) }
}

/// Opens the device that `spec` asks for, and loads the rank's shard. The ranks meet over `rendezvous`, if there are several.
///
/// # Errors
///
/// [`LoadError`]: the device cannot be opened, or the model's files cannot be read.
pub fn open_rank(
    spec: &RankSpec,
    rendezvous: Option<OwnedFd>,
    cuda: &CudaSettings,
    progress: &LoadProgress,
) -> Result<Loaded, LoadError> {
    let failed = |message: String| LoadError::Open { backend: spec.backend.clone(), message };
    let collective: Box<dyn Collective> = match rendezvous {
        Some(memory) => {
            let joined = SharedMemory::join(memory, spec.rank, spec.world, spec.collective_limit);
            Box::new(joined.map_err(BackendError::from)?)
        }
        None if spec.world == 1 => Box::new(SingleRank),
        None => return Err(failed(format!("the {} ranks were handed nothing over which to meet", spec.world))),
    };
    match &*spec.backend {
        "cpu" => {
            let isa = spec.isa.as_deref().map(str::parse).transpose().map_err(|error| failed(format!("{error}")))?;
            let options = cpu_options(spec.rank, spec.world, spec.threads, isa);
            worker::load(Cpu::new(&options, collective)?, spec, progress)
        }
        "reference" => worker::load(Reference::new(collective), spec, progress),
        "instant" => Ok(instant::load(spec.world)),
        "cuda" => {
            if cuda.cpu_binding {
                bind_next_to_gpu(spec.rank);
            }
            worker::load(Cuda::new(&cuda.options(spec), collective)?, spec, progress)
        }
        _ => Err(failed("there is no such backend".to_owned())),
    }
}

/// Binds this process to the CPUs next to its GPU. Where that fails it is slower, and goes on.
fn bind_next_to_gpu(rank: usize) {
    let Ok(gpus) = discover() else { return };
    let locality = gpus.all.get(rank).and_then(|gpu| GpuLocality::of(gpu, Path::new(SYSFS)));
    let Some(locality) = locality else {
        tracing::debug!("the system does not say which CPUs are next to the GPU");
        return;
    };
    match locality.bind_process() {
        Ok(0) => tracing::info!("may not run on the CPUs next to its GPU"),
        Ok(_) => tracing::info!("bound to processors {}", cpu_list(&locality.cpus)),
        Err(error) => tracing::warn!("binding to the CPUs next to its GPU: {error}"),
    }
}
