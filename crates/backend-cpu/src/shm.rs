//! The collective between the ranks of one host: memory that they share, without a name in any file system.

use crate::Isa;
use crate::kernels::simd::dispatch;
use crate::kernels::sum::AddTo;
use crate::shm_exchange::Exchange;
use crate::shm_region::Region;
use crate::sync::SPINS;
use backend::{Collective, CollectiveError};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::io::pwrite;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::available_parallelism;
use std::time::Duration;

/// One rank's end.
pub struct SharedMemory(Exchange<Region>);

/// Looks before sleep where ranks share cores: a few µs, since the awaited one may need this core.
const SPINS_ON_SHARED_CORES: u32 = 50;

impl SharedMemory {
    /// Makes the memory for `world` ranks: an anonymous file, to be handed to their processes.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Setup`], of rank 0, with what the system says.
    pub fn create(world: usize) -> Result<OwnedFd, CollectiveError> {
        let create = || {
            let fd = memfd_create("peregrine-collective", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&fd, Region::len_bytes(world) as u64)?;
            pwrite(&fd, &std::process::id().to_ne_bytes(), Region::owner_pid_at(world))?;
            // A smaller file would fault whoever reads the part that is gone.
            fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(fd)
        };
        create().map_err(|error: rustix::io::Errno| CollectiveError::Setup { rank: 0, message: error.to_string() })
    }

    /// Takes a rank's place in `memory`; an operation that waits for other ranks ends after `time_limit`, in which no time counts
    /// while this process, another rank's or that of the memory's maker is stopped.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Setup`]: this is no such memory, or it was made for another world.
    pub fn join(memory: impl AsFd, rank: usize, world: usize, time_limit: Duration) -> Result<Self, CollectiveError> {
        let setup = |message: String| CollectiveError::Setup { rank, message };
        let system = |error: rustix::io::Errno| setup(format!("the ranks' memory: {error}"));
        if rank >= world {
            return Err(setup(format!("there is no such rank among {world}")));
        }
        let (found, expected) = (fstat(&memory).map_err(system)?.st_size, Region::len_bytes(world));
        if usize::try_from(found) != Ok(expected) {
            return Err(setup(format!("the ranks' memory has {found} bytes, and {world} ranks need {expected}")));
        }
        let region = Region::map(&memory, world).map_err(system)?;
        let cores = available_parallelism().map_or(1, usize::from);
        let spins = if world <= cores { SPINS } else { SPINS_ON_SHARED_CORES };
        let isa = Isa::detect();
        let add = move |sum: &mut [f32], term: &[f32]| dispatch(isa, AddTo { sum, term });
        Ok(Self(Exchange::new(region, (rank, world), time_limit, spins, Box::new(add))))
    }
}

impl Collective for SharedMemory {
    fn rank(&self) -> usize {
        self.0.place().0
    }

    fn world(&self) -> usize {
        self.0.place().1
    }

    fn processes(&self) -> Vec<u32> {
        self.0.processes()
    }

    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        self.0.all_reduce(x)
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError> {
        self.0.all_gather(mine, counts, all)
    }
}
