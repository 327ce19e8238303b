//! How workers are started, and where they meet.

use crate::{CudaSettings, EngineError};
use backend_cpu::SharedMemory;
use backend_cuda::{AllReduceChoice, CUBLASLT, LIBRARY_PATH, Libraries, NCCL};
use coordinator::Rendezvous;
use std::any::Any;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

/// What starts a worker.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// What it is called in lists of processes.
    pub name: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that are set for it, unless the user has set them.
    pub variables: Vec<(&'static str, &'static str)>,
}

/// What the workers find when they start, beside their command.
pub(crate) struct Launch {
    /// Variables that are set for them.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Over what they meet.
    pub(crate) rendezvous: Option<Box<dyn Rendezvous>>,
    /// What must live as long as they do.
    pub(crate) keep: Box<dyn Any + Send + Sync>,
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

/// The memory over which the ranks of an epoch meet: made at first, and made new then.
fn rendezvous(made: &OnceLock<OwnedFd>, world: usize) -> io::Result<OwnedFd> {
    let memory = match made.get() {
        Some(memory) => {
            SharedMemory::renew(memory, world).map_err(io::Error::other)?;
            memory
        }
        None => {
            let memory = SharedMemory::create(world).map_err(io::Error::other)?;
            made.get_or_init(|| memory)
        }
    };
    memory.try_clone()
}

/// Variables, and what must live as long as the process that has them.
pub type RankEnvironment = (Vec<(OsString, OsString)>, Box<dyn Any + Send + Sync>);

/// What a process that has ranks on GPUs itself must find when it starts, as workers do.
///
/// # Errors
///
/// [`EngineError`]: NVIDIA's libraries cannot be looked for, or NCCL is asked for and missing.
pub fn cuda_environment(world: usize, cuda: &CudaSettings) -> Result<RankEnvironment, EngineError> {
    let Launch { environment, keep, .. } = Launch::new("cuda", world, cuda, &[])?;
    Ok((environment, keep))
}

impl Launch {
    /// For `world` ranks on this machine.
    pub(crate) fn new(
        backend: &str,
        world: usize,
        cuda: &CudaSettings,
        variables: &[(&str, &str)],
    ) -> Result<Self, EngineError> {
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
            CUDA_ENVIRONMENT.iter().chain(variables).for_each(|(name, value)| set_default(name, value));
        }
        let mut keep: Box<dyn Any + Send + Sync> = Box::new(());
        let made = OnceLock::new();
        let memory = move || rendezvous(&made, world);
        let rendezvous = (world > 1).then(|| Box::new(memory) as Box<dyn Rendezvous>);
        if backend == "cuda" {
            let wanted: &[_] = if world > 1 { &[&CUBLASLT, &NCCL] } else { &[&CUBLASLT] };
            let libraries = Libraries::find(wanted).map_err(EngineError::Libraries)?;
            for (library, told) in libraries.missing() {
                if library.name == NCCL.name && cuda.all_reduce == AllReduceChoice::Nccl {
                    return Err(EngineError::NoNccl(told));
                }
            }
            environment.extend(libraries.library_path().map(|path| (LIBRARY_PATH.into(), path)));
            keep = Box::new(libraries);
        }
        Ok(Self { environment, rendezvous, keep })
    }
}
