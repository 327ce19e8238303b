//! How large KV cache and steps are on this machine, before anything is read.

use crate::{CapacityError, available_bytes};
use backend::{Footprint, ReferenceFootprint};
use backend_cpu::{CpuFootprint, Isa};
use backend_cuda::{CudaFootprint, GpuInfo, SharedMemory, discover};
use model::FalconConfig;
use sizing::{Asked, Backend, Fit, Footprints, Gpu, Reserve, Site, cpu_reserves, fit, gpu_reserves};
use weights::{Checkpoint, Unresolved};

/// What the backends allocate, on devices that need not be there.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackendFootprints;

impl Footprints for BackendFootprints {
    fn cuda(&self, gpu: &Gpu, ranks: usize) -> Box<dyn Footprint> {
        let reserved_bytes = 1 << 10;
        let multiprocessor_bytes = gpu.shared_kib << 10;
        // True of all kinds since Ampere.
        let shared = SharedMemory {
            multiprocessor_bytes,
            block_bytes_max: multiprocessor_bytes - reserved_bytes,
            reserved_bytes,
        };
        Box::new(CudaFootprint::new(gpu.multiprocessors, shared, ranks))
    }

    fn cpu(&self) -> Box<dyn Footprint> {
        // The one that pads most. What threads take is little beside a model that is worth a plan.
        Box::new(CpuFootprint::new(Some(Isa::Amx), 1))
    }
}

/// This machine, as a place for ranks.
#[derive(Clone, Debug)]
pub enum Machine {
    /// Its GPUs, one for each rank.
    Gpus(Vec<GpuInfo>),
    /// Its CPUs and memory.
    Host(Host),
}

/// CPUs and memory, shared by the ranks.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Bytes that may be taken.
    pub memory_bytes: u64,
    /// Threads of each rank; `None`: an even share of the cores.
    pub threads: Option<usize>,
    /// The instruction set; `None`: the best that there is.
    pub isa: Option<Isa>,
    /// The plain reference runs, and not vectorized kernels.
    pub is_reference: bool,
}

impl Machine {
    /// The machine as a backend sees it.
    ///
    /// # Errors
    ///
    /// [`CapacityError::Gpus`], where the backend is cuda.
    pub fn of(backend: &str, threads: Option<usize>, isa: Option<Isa>) -> Result<Self, CapacityError> {
        if backend == "cuda" {
            return Ok(Self::Gpus(discover()?.all));
        }
        let is_reference = backend == "reference";
        Ok(Self::Host(Host { memory_bytes: available_bytes(), threads, isa, is_reference }))
    }

    /// How large `world` ranks of a model are here.
    ///
    /// # Errors
    ///
    /// [`CapacityError::DoesNotFit`].
    pub fn fit(&self, config: &FalconConfig, world: usize, asked: &Asked) -> Result<Fit, CapacityError> {
        Ok(fit(config, world, self, asked)?)
    }

    /// As [`Self::fit`], of a checkpoint, which is resolved. No weight is read before it is known that the model fits with
    /// one table for embedding and output, if it is tied: an output projection of its own only takes more.
    ///
    /// # Errors
    ///
    /// [`CapacityError::DoesNotFit`].
    pub fn fit_checkpoint(
        &self,
        checkpoint: Unresolved,
        world: usize,
        asked: &Asked,
    ) -> Result<(Checkpoint, Fit), CapacityError> {
        let fit = self.fit(checkpoint.config(), world, asked)?;
        let was_tied = checkpoint.config().tied;
        let checkpoint = checkpoint.resolve();
        let is_same = checkpoint.config().tied == was_tied;
        let fit = if is_same { fit } else { self.fit(checkpoint.config(), world, asked)? };
        Ok((checkpoint, fit))
    }
}

/// Threads of each rank: as many as asked for, or an even share of the cores.
pub(crate) fn threads_of_rank(asked: Option<usize>, world: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    asked.unwrap_or((cores / world).max(1))
}

impl Site for Machine {
    fn backend(&self) -> Backend {
        match self {
            Self::Gpus(_) => Backend::Cuda,
            Self::Host(_) => Backend::Cpu,
        }
    }

    fn memory_bytes(&self, ranks: usize) -> u64 {
        match self {
            // Of the smallest that a rank has. More ranks than there are GPUs would need more of these.
            Self::Gpus(gpus) => gpus.iter().take(ranks).map(|gpu| gpu.memory_bytes).min().unwrap_or(0),
            Self::Host(host) => host.memory_bytes / ranks as u64,
        }
    }

    fn reserves(&self, ranks: usize) -> Vec<Reserve> {
        match self {
            Self::Gpus(_) => gpu_reserves(self.memory_bytes(ranks), ranks, true),
            Self::Host(_) => cpu_reserves(),
        }
    }

    fn footprint(&self, ranks: usize) -> Box<dyn Footprint> {
        match self {
            Self::Gpus(gpus) => Box::new(CudaFootprint::of(&gpus[0], ranks)),
            Self::Host(host) if host.is_reference => Box::new(ReferenceFootprint),
            Self::Host(host) => Box::new(CpuFootprint::new(host.isa, threads_of_rank(host.threads, ranks))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::goldens::checkpoints;

    fn host(memory_bytes: u64) -> Machine {
        Machine::Host(Host { memory_bytes, threads: None, isa: None, is_reference: true })
    }

    /// A head that is stored and no copy of the embedding table counts, but only once the model would fit without it.
    #[test]
    fn a_checkpoint_fits_with_the_head_that_it_turns_out_to_have() {
        let cases = checkpoints();
        for (name, stays_tied) in [("head-equal", true), ("head-differs", false)] {
            let case = cases.iter().find(|case| case.name == name).expect("it is one of them");
            let open = || Checkpoint::open_unresolved(&case.dir).expect("a checkpoint");
            let tied = open().config().clone();
            let asked = Asked::new(&tied, None, Some(16), Some(1));
            let fits = |memory: &u64| host(*memory).fit(&tied, 1, &asked).is_ok();
            let (mut no, mut least) = (0, 1_u64 << 40);
            while least - no > 1 {
                let middle = no.midpoint(least);
                if fits(&middle) { least = middle } else { no = middle }
            }
            assert!(host(no).fit_checkpoint(open(), 1, &asked).is_err(), "{name}");
            assert_eq!(host(least).fit_checkpoint(open(), 1, &asked).is_ok(), stays_tied, "{name}");
            let (checkpoint, fit) = host(2 * least).fit_checkpoint(open(), 1, &asked).expect("there is enough");
            assert_eq!(checkpoint.config().tied, stays_tied, "{name}");
            assert_eq!(fit, host(2 * least).fit(checkpoint.config(), 1, &asked).expect("there is enough"), "{name}");
        }
    }
}
