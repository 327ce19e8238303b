//! The collective between the ranks of one host: memory that they share, without a name in any file system.

use crate::Isa;
use crate::kernels::simd::dispatch;
use crate::kernels::sum::AddTo;
use crate::shm_exchange::{Exchange, leave};
use crate::shm_region::Region;
use crate::sync::SPINS;
use backend::{Collective, CollectiveError, Leaver};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::io::pwrite;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

/// One rank's end.
pub struct SharedMemory {
    exchange: Exchange<Arc<Region>>,
    region: Arc<Region>,
    time_limit: Duration,
}

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
            sign(&fd, world)?;
            // A smaller file would fault whoever reads the part that is gone.
            fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(fd)
        };
        create().map_err(|error: rustix::io::Errno| CollectiveError::Setup { rank: 0, message: error.to_string() })
    }

    /// Makes the memory new, for ranks that rejoin and others that join. Nobody uses it meanwhile: who was in it has left, or its
    /// process has ended.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Setup`], of rank 0, with what the system says.
    pub fn renew(memory: impl AsFd, world: usize) -> Result<(), CollectiveError> {
        let zeros = vec![0; Region::control_bytes(world)];
        let written = pwrite(&memory, &zeros, 0).and_then(|_| sign(&memory, world));
        written.map_err(|error| CollectiveError::Setup { rank: 0, message: error.to_string() })
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
        let region = Arc::new(Region::map(&memory, world).map_err(system)?);
        let cores = available_parallelism().map_or(1, usize::from);
        let spins = if world <= cores { SPINS } else { SPINS_ON_SHARED_CORES };
        let isa = Isa::detect();
        let add = move |sum: &mut [f32], term: &[f32]| dispatch(isa, AddTo { sum, term });
        let exchange = Exchange::new(Arc::clone(&region), (rank, world), time_limit, spins, Box::new(add));
        Ok(Self { exchange, region, time_limit })
    }
}

/// Writes whose process made the memory.
fn sign(memory: impl AsFd, world: usize) -> rustix::io::Result<()> {
    pwrite(memory, &std::process::id().to_ne_bytes(), Region::owner_pid_at(world)).map(|_| ())
}

impl Collective for SharedMemory {
    fn rank(&self) -> usize {
        self.exchange.place().0
    }

    fn world(&self) -> usize {
        self.exchange.place().1
    }

    fn processes(&self) -> Vec<u32> {
        self.exchange.processes()
    }

    fn leaver(&self) -> Option<Leaver> {
        let (region, (rank, world)) = (Arc::clone(&self.region), self.exchange.place());
        Some(Arc::new(move || leave(&region, rank, world)))
    }

    fn rejoin(&mut self) {
        self.exchange.rejoin();
        self.exchange.set_time_limit(Duration::MAX);
    }

    fn settle(&mut self) {
        self.exchange.set_time_limit(self.time_limit);
    }

    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        self.exchange.all_reduce(x)
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError> {
        self.exchange.all_gather(mine, counts, all)
    }
}
