//! How the ranks' sums are made, and why so.

use crate::AllReduceChoice;
use crate::device::Device;
use crate::kernels::all_reduce::{Add, RANKS_MAX};
use crate::nccl::{self, Nccl};
use crate::peers::{PeerMemory, can_access};
use backend::{BackendError, Bootstrap, Collective};
use std::rc::Rc;

/// The way of sums between ranks.
pub(crate) enum AllReducePath {
    /// There is one rank.
    SingleRank,
    /// Kernels read the peers' memory.
    Peers(PeerMemory),
    /// NCCL.
    Nccl(Nccl),
    /// Through the host's memory: slow, but it asks nothing of the machine.
    Host,
}

/// Which way it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// By this kernel for sums of any size, if one was asked for.
    Peers(Option<Add>),
    Nccl,
    Host,
}

/// What a rank says of itself before the path is chosen.
struct Facts {
    /// It can access the devices of all others.
    peers: bool,
    nccl: bool,
    multiprocessors: usize,
}

impl AllReducePath {
    /// Chooses, on all ranks alike, and connects.
    pub(crate) fn choose(
        device: &Rc<Device>,
        host: &mut dyn Collective,
        choice: AllReduceChoice,
    ) -> Result<Self, BackendError> {
        if host.world() == 1 {
            return Ok(Self::SingleRank);
        }
        let facts = facts(device, host)?;
        Ok(match Self::decide(device, host, choice, &facts)? {
            Kind::Peers(shots) => Self::Peers(PeerMemory::new(device, facts.multiprocessors, shots)?),
            Kind::Nccl => Self::Nccl(Nccl::connect(device, host)?),
            Kind::Host => Self::Host,
        })
    }

    /// Leaves the other ranks: kernels that wait for them end.
    pub(crate) fn leave(&mut self) -> Result<(), BackendError> {
        match self {
            Self::Peers(peers) => peers.leave(),
            Self::Nccl(nccl) => nccl.abort(),
            Self::SingleRank | Self::Host => Ok(()),
        }
    }

    /// Connects with the ranks of another life, some of which choose now.
    pub(crate) fn rejoin(
        &mut self,
        device: &Rc<Device>,
        host: &mut dyn Collective,
        choice: AllReduceChoice,
    ) -> Result<(), BackendError> {
        let facts = facts(device, host)?;
        let decided = Self::decide(device, host, choice, &facts)?;
        match (self, decided) {
            (Self::Peers(peers), Kind::Peers(_)) if peers.blocks() == facts.multiprocessors => peers.rejoin(host),
            (Self::Nccl(nccl), Kind::Nccl) => {
                *nccl = Nccl::connect(device, host)?;
                Ok(())
            }
            (Self::Host, Kind::Host) => Ok(()),
            _ => Err(device.fault_text("rejoining", "the devices are not as they were when this rank was loaded")),
        }
    }

    /// By what holds on all ranks.
    fn decide(
        device: &Device,
        host: &dyn Collective,
        choice: AllReduceChoice,
        facts: &Facts,
    ) -> Result<Kind, BackendError> {
        let missing = |what: &str| Err(device.fault_text("choosing an all-reduce", what));
        let no_nccl = "libnccl.so cannot be opened on every rank; its folder belongs into LD_LIBRARY_PATH";
        let why_no_peers = if host.world() > RANKS_MAX {
            Some(format!("{} ranks are more than the {RANKS_MAX} that kernels sum over", host.world()))
        } else if !facts.peers {
            Some("not every device can access the memory of every other".to_owned())
        } else {
            None
        };
        let (kind, name, reason) = match (choice, why_no_peers) {
            (AllReduceChoice::Auto, None) => {
                (Kind::Peers(None), "peer memory", "every device can access every other".to_owned())
            }
            (AllReduceChoice::OneShot, None) => {
                (Kind::Peers(Some(Add::OneShot)), "peer memory in one shot", "--all-reduce one-shot".to_owned())
            }
            (AllReduceChoice::TwoShot, None) => {
                (Kind::Peers(Some(Add::TwoShot)), "peer memory in two shots", "--all-reduce two-shot".to_owned())
            }
            (AllReduceChoice::OneShot | AllReduceChoice::TwoShot, Some(reason)) => {
                return missing(&format!("the ranks cannot read each other's memory: {reason}"));
            }
            (AllReduceChoice::Auto, Some(reason)) if facts.nccl => (Kind::Nccl, "NCCL", reason),
            (AllReduceChoice::Nccl, _) if facts.nccl => (Kind::Nccl, "NCCL", "--all-reduce nccl".to_owned()),
            (AllReduceChoice::Nccl, _) => return missing(no_nccl),
            (AllReduceChoice::Auto, Some(reason)) => {
                tracing::warn!("all-reduces go through the host's memory, which is slow: {reason}, and {no_nccl}");
                (Kind::Host, "host memory", reason)
            }
            (AllReduceChoice::Host, _) => (Kind::Host, "host memory", "it was asked for".to_owned()),
        };
        if host.rank() == 0 {
            tracing::info!("all-reduce by {name}: {reason}");
        }
        Ok(kind)
    }
}

/// What holds on all ranks.
fn facts(device: &Device, host: &mut dyn Collective) -> Result<Facts, BackendError> {
    let mut told = |mine: &[u32]| -> Result<Vec<Vec<u32>>, BackendError> {
        let all = host.all_gather_bytes(bytemuck::cast_slice(mine))?;
        Ok(all.iter().map(|of_rank| bytemuck::pod_collect_to_vec(of_rank)).collect())
    };
    let ordinals = told(&[device.context.ordinal() as u32])?;
    let others = ordinals.iter().enumerate().filter(|(rank, _)| *rank != device.rank);
    let peers = others.map(|(_, ordinal)| ordinal[0] as usize).all(|ordinal| can_access(device, ordinal));
    let all = told(&[u32::from(peers), u32::from(nccl::is_present()), device.multiprocessors as u32])?;
    let least = |which: usize| all.iter().map(|facts| facts[which] as usize).min().unwrap_or(0);
    Ok(Facts { peers: least(0) == 1, nccl: least(1) == 1, multiprocessors: least(2) })
}
