//! This machine as what is planned for.

use super::Target;
use anyhow::{Context, Result};
use backend_cpu::Isa;
use backend_cuda::{DiscoverError, discover};
use runtime::Machine;
use sizing::Backend;

/// This machine's name as a node.
pub const LOCAL: &str = "local";

/// The most ranks on CPUs.
const CPU_RANKS_MAX: usize = 64;

/// This machine's GPUs, or its CPUs where that is asked for or there are none.
pub fn target(backend: Option<Backend>) -> Result<Target> {
    let found = match backend {
        Some(Backend::Cpu) => None,
        Some(Backend::Cuda) => Some(discover().context("--node local --backend cuda")?),
        None => match discover() {
            Ok(gpus) => Some(gpus),
            Err(DiscoverError::NoDriver | DiscoverError::NoGpu { .. }) => None,
            Err(error) => return Err(error).context("--node local (--backend cpu plans for the CPUs)"),
        },
    };
    let name = LOCAL.to_owned();
    Ok(match found {
        Some(gpus) => {
            let ranks = gpus.all.len();
            let devices = format!("the {ranks} GPUs ({})", gpus.all[0].name);
            let site = Box::new(Machine::Gpus(gpus.all));
            Target { name, devices, node: None, site, ranks_max: ranks, ranks }
        }
        None => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let devices = format!("the CPUs ({cores} cores, {})", Isa::detect());
            let site = Box::new(Machine::of("cpu", None, None)?);
            Target { name, devices, node: None, site, ranks_max: CPU_RANKS_MAX, ranks: 1 }
        }
    })
}
