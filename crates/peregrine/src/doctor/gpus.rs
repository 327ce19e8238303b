//! GPUs, how they reach each other, and NVIDIA's libraries.

use super::DoctorArgs;
use crate::units::gb;
use backend_cuda::{
    CUBLASLT, DiscoverError, GpuInfo, GpuLocality, Gpus, LIBRARY_PATH, Libraries, NCCL, Place, cpu_list, discover,
};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What was found of GPUs.
#[derive(Default)]
pub(super) struct Found {
    pub(super) driver: Option<String>,
    pub(super) gpus: Vec<Gpu>,
    /// Ranks that are asked for, or one for each GPU.
    pub(super) ranks: usize,
    /// Each rank can have a GPU that is new enough.
    pub(super) usable: bool,
    pub(super) peers: Option<bool>,
    pub(super) libraries: Vec<FoundLibrary>,
    /// Why they cannot be used.
    pub(super) problems: Vec<String>,
    /// What they lack to be fast.
    pub(super) slower: Vec<String>,
}

/// One GPU.
#[derive(Debug, Serialize)]
pub(super) struct Gpu {
    pub(super) ordinal: usize,
    pub(super) name: String,
    compute_capability: String,
    memory_bytes: u64,
    pci_bus_id: String,
    /// Cores next to it, as Linux writes a list of them.
    cores: Option<String>,
    numa_node: Option<u32>,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, compute_capability, .. } = self;
        let memory = gb(self.memory_bytes);
        write!(f, "{name}, compute capability {compute_capability}, {memory} GB; cores next to it: ")?;
        match (&self.cores, self.numa_node) {
            (None, _) => write!(f, "unknown"),
            (Some(cores), None) => write!(f, "{cores}"),
            (Some(cores), Some(node)) => write!(f, "{cores} (node {node})"),
        }
    }
}

/// A library, and where it is.
#[derive(Debug, Serialize)]
pub(super) struct FoundLibrary {
    pub(super) name: &'static str,
    /// `None` where it is missing.
    pub(super) path: Option<String>,
}

/// Looks at all GPUs, and whether they will do for the ranks.
pub(super) fn look(args: &DoctorArgs) -> Found {
    let asked = args.tensor_parallel.map(|ranks| ranks as usize);
    let gpus = match discover() {
        Ok(gpus) => gpus,
        Err(error) => return Found { ranks: asked.unwrap_or(1), problems: vec![absent(&error)], ..Found::default() },
    };
    let ranks = asked.unwrap_or(gpus.all.len());
    let (major, minor) = (gpus.driver_version / 1000, gpus.driver_version % 1000 / 10);
    let mut found = Found {
        driver: Some(format!("{major}.{minor}")),
        gpus: gpus.all.iter().map(|gpu| describe(gpu, &args.sysfs)).collect(),
        ranks,
        ..Found::default()
    };
    match gpus.for_ranks(ranks) {
        Ok(_) => found.usable = true,
        Err(error) => found.problems.push(error.to_string()),
    }
    if found.usable && ranks > 1 {
        ask_peers(&gpus, ranks, &mut found);
    }
    find_libraries(ranks, &mut found);
    found
}

/// Why there are no GPUs; with what hints at one where the driver's library is missing.
fn absent(error: &DiscoverError) -> String {
    match (error, runtime::gpu_traces()) {
        (DiscoverError::NoDriver, Some(trace)) => format!("{error}; there is a GPU, by {trace}"),
        _ => error.to_string(),
    }
}

fn describe(gpu: &GpuInfo, sysfs: &Path) -> Gpu {
    let locality = GpuLocality::of(gpu, sysfs);
    let ((major, minor), cores) = (gpu.capability, locality.as_ref().map(|it| cpu_list(&it.cpus)));
    Gpu {
        ordinal: gpu.ordinal,
        name: gpu.name.clone(),
        compute_capability: format!("{major}.{minor}"),
        memory_bytes: gpu.memory_bytes,
        pci_bus_id: gpu.pci_bus_id.clone(),
        cores,
        numa_node: locality.and_then(|it| it.numa_node),
    }
}

fn ask_peers(gpus: &Gpus, ranks: usize, found: &mut Found) {
    let access = gpus.check_peer_access(ranks);
    found.peers = Some(access.is_ok());
    found.slower.extend(access.err().map(|error| error.to_string()));
}

fn find_libraries(ranks: usize, found: &mut Found) {
    let wanted: &[_] = if ranks > 1 { &[&CUBLASLT, &NCCL] } else { &[&CUBLASLT] };
    let libraries = match Libraries::find(wanted) {
        Ok(libraries) => libraries,
        Err(error) => return found.problems.push(format!("looking for NVIDIA's libraries: {error}")),
    };
    found.libraries.extend(libraries.places.iter().map(|(library, place)| FoundLibrary {
        name: library.name,
        path: match place {
            Place::Found => Some("where the loader finds it".to_owned()),
            Place::Linked(path) => Some(path.display().to_string()),
            Place::Missing(_) => None,
        },
    }));
    let missing = libraries.missing().map(|(_, told)| format!("{told}; add its folder to {LIBRARY_PATH}"));
    found.slower.extend(missing);
}
