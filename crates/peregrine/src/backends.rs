//! The only place that knows which backends there are.

use anyhow::{Result, bail};
use backend::{Alone, BackendError, Collective, Reference};
use backend_cpu::{Cpu, CpuOptions, Isa, SharedMemory};
use clap::ValueEnum;
use coordinator::Rendezvous;
use std::path::Path;
use worker::{LoadError, LoadProgress, Loaded, RankSpec};

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// The best that this machine has.
    Auto,
    /// Vectorized kernels on the processor.
    Cpu,
    /// Plain code on the processor: slow, and what the others are checked against.
    Reference,
    /// NVIDIA GPUs.
    Cuda,
}

impl BackendName {
    /// The backend that runs for this choice.
    pub fn resolve(self) -> Result<&'static str> {
        match self {
            Self::Auto | Self::Cpu => Ok("cpu"),
            Self::Reference => Ok("reference"),
            Self::Cuda => bail!("this version of peregrine has no cuda backend; use --backend cpu"),
        }
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

/// A place where `world` ranks of this machine meet.
pub fn rendezvous(world: usize) -> Result<Rendezvous> {
    if world == 1 {
        return Ok(Rendezvous { address: String::new(), keep: Box::new(()) });
    }
    let memory = SharedMemory::create(world)?;
    Ok(Rendezvous { address: memory.path(), keep: Box::new(memory) })
}

/// Opens the device that `spec` asks for, and loads it.
pub fn open_rank(spec: &RankSpec, progress: &LoadProgress) -> Result<Loaded, LoadError> {
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
            let options = CpuOptions { threads: spec.threads, isa, ..CpuOptions::default() };
            worker::load(Cpu::new(&options, collective)?, spec, progress)
        }
        "reference" => worker::load(Reference::new(collective), spec, progress),
        _ => Err(failed("there is no such backend".to_owned())),
    }
}
