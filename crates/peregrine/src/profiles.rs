//! `serve --profile`: what a start takes on a machine that is known, as data. Flags of a profile come before defaults, and after all that anybody
//! has set.

use anyhow::{Context, Result, ensure};
use backend_cuda::{GpuInfo, GpuLocality, SYSFS, discover, parse_cpu_list};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rustix::thread::sched_getaffinity;
use sizing::{Backend, Link, NODES, Node};
use std::path::Path;

/// The profile of whatever machine this is.
const LOCAL: &str = "local";

/// What all nodes with GPUs of a kind of link have in common: each value has its reason.
struct Fabric {
    flags: &'static [(&'static str, &'static str)],
    /// For the workers, beside those that every worker on a GPU has (`runtime::launch`).
    variables: &'static [(&'static str, &'static str)],
}

const NVLINK: Fabric = Fabric {
    flags: &[
        // A node whose GPUs cannot be used is broken: it must not serve from its CPUs.
        ("backend", "cuda"),
        // Steps as large as throughput gains by. The KV cache is then as large as memory allows.
        ("max-batch-tokens", "2048"),
        // More than run at once, so that no request is refused for a burst.
        ("max-concurrent-requests", "1024"),
    ],
    variables: &[
        // Every pair has NVLink. Where it is lost, sums over PCIe would be so slow that nobody should get used to them.
        ("NCCL_P2P_LEVEL", "NVL"),
        // Sums within the switches (from H100 on) take memory of each GPU that the plan of its memory does not count.
        ("NCCL_NVLS_ENABLE", "0"),
    ],
};

const PCIE: Fabric = Fabric {
    // Nothing was measured there: sizes are what memory allows.
    flags: &[("backend", "cuda")],
    // Virtual machines do not offer peer access over PCIe, or offer it and then hang behind their IOMMU: through the host's memory.
    variables: &[("NCCL_P2P_DISABLE", "1")],
};

fn fabric(node: &Node) -> &'static Fabric {
    match node.gpu.link {
        Link::NvLink { .. } => &NVLINK,
        Link::Pcie => &PCIE,
    }
}

/// The names of profiles: the nodes that are known, and this machine.
pub fn names() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(NODES.iter().map(|node| node.name).chain([LOCAL]))
}

/// The flags that a profile sets; none, if there is no such profile.
pub fn flags(name: &str) -> Vec<(&'static str, String)> {
    if name == LOCAL {
        return local(Path::new(SYSFS));
    }
    let Ok(node) = Node::named(name) else { return Vec::new() };
    // A rank on each of them.
    let ranks = [("tensor-parallel", node.gpus.to_string())];
    ranks.into_iter().chain(fabric(node).flags.iter().map(|(flag, value)| (*flag, (*value).to_owned()))).collect()
}

/// A rank on each GPU; without any that will do, one for each node of memory, so that none reads another's.
fn local(sysfs: &Path) -> Vec<(&'static str, String)> {
    let gpus = discover().ok().filter(|gpus| gpus.for_ranks(gpus.all.len()).is_ok());
    let (backend, ranks) = gpus.map_or_else(|| ("cpu", memory_nodes(sysfs)), |gpus| ("cuda", gpus.all.len()));
    vec![("tensor-parallel", ranks.to_string()), ("backend", backend.to_owned())]
}

/// Nodes of memory with a core on which this process may run.
fn memory_nodes(sysfs: &Path) -> usize {
    let allowed = sched_getaffinity(None).ok();
    let nodes = std::fs::read_dir(sysfs.join("devices/system/node")).into_iter().flatten().flatten();
    let cores =
        nodes.filter_map(|node| parse_cpu_list(std::fs::read_to_string(node.path().join("cpulist")).ok()?.trim()));
    let may_run = |cores: &Vec<usize>| {
        cores
            .iter()
            .any(|&core| allowed.as_ref().is_none_or(|set| core < rustix::thread::CpuSet::MAX_CPU && set.is_set(core)))
    };
    cores.filter(may_run).count().max(1)
}

/// Variables of a profile's workers.
pub fn variables(name: &str) -> Vec<(&'static str, &'static str)> {
    Node::named(name).map(|node| fabric(node).variables.to_vec()).unwrap_or_default()
}

/// Whether this machine is what the profile says. Returns what makes it slower.
///
/// # Errors
///
/// If it is not: with what was expected and what was found.
pub fn check(name: &str) -> Result<Vec<String>> {
    let Ok(node) = Node::named(name) else { return Ok(Vec::new()) };
    let gpus = discover().with_context(|| format!("--profile {name}"))?;
    judge(node, &gpus.all, Path::new(SYSFS))
}

fn judge(node: &Node, gpus: &[GpuInfo], sysfs: &Path) -> Result<Vec<String>> {
    let (name, kind) = (node.name, node.gpu.name);
    let found = gpus.first().map_or("none", |gpu| gpu.name.as_str());
    ensure!(
        gpus.len() == node.gpus,
        "--profile {name}: expected {} GPUs ({kind}), and the driver finds {} ({found}); is CUDA_VISIBLE_DEVICES set, or the container \
         without some of them? --profile {LOCAL} takes what there is",
        node.gpus,
        gpus.len()
    );
    for gpu in gpus {
        let (least, has) = (node.memory_bytes(Backend::Cuda, 1) / 20 * 19, gpu.memory_bytes);
        ensure!(
            node.gpu.is_called(&gpu.name) && has >= least,
            "--profile {name}: expected GPUs {kind}, and GPU {} is {} with {} GB; --profile {LOCAL} takes what there is",
            gpu.ordinal,
            gpu.name,
            crate::units::gb(has)
        );
    }
    let unknown: Vec<String> =
        gpus.iter().filter(|gpu| GpuLocality::of(gpu, sysfs).is_none()).map(|gpu| gpu.ordinal.to_string()).collect();
    let told = format!(
        "--profile {name}: the system does not say which cores are next to GPUs {}: their ranks are not bound. In a container, is /sys there?",
        unknown.join(", ")
    );
    Ok(if unknown.is_empty() { Vec::new() } else { vec![told] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend_cuda::SharedMemory;
    use tempfile::TempDir;

    fn gpus(count: usize, name: &str, gib: u64) -> Vec<GpuInfo> {
        let gpu = |ordinal| GpuInfo {
            ordinal,
            name: name.to_owned(),
            capability: (8, 0),
            memory_bytes: gib << 30,
            multiprocessors: 108,
            shared: SharedMemory {
                multiprocessor_bytes: 164 << 10,
                block_bytes_max: 163 << 10,
                reserved_bytes: 1 << 10,
            },
            pci_bus_id: format!("0000:{:02X}:00.0", 16 + ordinal),
        };
        (0..count).map(gpu).collect()
    }

    /// As Linux describes a p4de.24xlarge: four GPUs beside each of two sockets.
    fn p4de() -> TempDir {
        let sysfs = TempDir::new().expect("a folder");
        let write = |path: String, text: &str| {
            let path = sysfs.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        for gpu in 0..8 {
            let (cores, node) = if gpu < 4 { ("0-23,48-71\n", "0\n") } else { ("24-47,72-95\n", "1\n") };
            let device = format!("bus/pci/devices/0000:{:02x}:00.0", 16 + gpu);
            write(format!("{device}/local_cpulist"), cores);
            write(format!("{device}/numa_node"), node);
        }
        write("devices/system/node/node0/cpulist".to_owned(), "0-23,48-71\n");
        write("devices/system/node/node1/cpulist".to_owned(), "24-47,72-95\n");
        write("devices/system/node/online".to_owned(), "0-1\n");
        sysfs
    }

    #[test]
    fn a_machine_must_be_what_its_profile_says() {
        let node = Node::named("p4de.24xlarge").expect("a node");
        let (sysfs, name) = (p4de(), "NVIDIA A100-SXM4-80GB");
        let of = |gpus: &[GpuInfo]| judge(node, gpus, sysfs.path());
        assert!(of(&gpus(8, name, 80)).expect("it is one").is_empty());
        let refused = |gpus: &[GpuInfo]| of(gpus).expect_err("it is none").to_string();
        let few = refused(&gpus(4, name, 80));
        assert!(few.contains("expected 8 GPUs (A100-80GB), and the driver finds 4 (NVIDIA A100-SXM4-80GB)"), "{few}");
        let small = refused(&gpus(8, "NVIDIA A100-SXM4-40GB", 40));
        assert!(small.contains("expected GPUs A100-80GB, and GPU 0 is NVIDIA A100-SXM4-40GB with 42.95 GB"), "{small}");
        let part = refused(&gpus(8, name, 20));
        assert!(part.contains("and GPU 0 is NVIDIA A100-SXM4-80GB with 21.47 GB"), "{part}");
        // Where the system is silent, ranks run anywhere.
        let silent = judge(node, &gpus(8, name, 80), Path::new("/nowhere")).expect("it is one");
        assert!(silent[0].contains("next to GPUs 0, 1, 2, 3, 4, 5, 6, 7"), "{silent:?}");
    }

    #[test]
    fn profiles_set_flags_that_serve_has() {
        use clap::CommandFactory;
        let program = crate::Cli::command();
        let serve = program.find_subcommand("serve").expect("a command");
        for name in NODES.iter().map(|node| node.name).chain([LOCAL]) {
            let arguments = flags(name).into_iter().map(|(flag, value)| format!("--{flag}={value}"));
            let words = ["serve".to_owned()].into_iter().chain(arguments);
            serve.clone().try_get_matches_from(words).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(flags("p4de.24xlarge")[0], ("tensor-parallel", "8".to_owned()));
        assert!(flags("a.small").is_empty() && variables(LOCAL).is_empty());
    }

    /// docs/operations.md has a row of each kind of node, with all that it sets.
    #[test]
    fn every_profile_is_documented() {
        let text = include_str!("../../../docs/operations.md");
        let row = |name: &str| text.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        for node in &NODES {
            let row = row(node.name).unwrap_or_else(|| panic!("{} has no row", node.name));
            for (flag, value) in fabric(node).flags {
                assert!(row.contains(&format!("`--{flag} {value}`")), "--{flag} {value}: {row}");
            }
            for (name, value) in fabric(node).variables {
                assert!(row.contains(&format!("`{name}={value}`")), "{name}={value}: {row}");
            }
        }
        assert!(row(LOCAL).is_some());
    }

    #[test]
    fn nodes_of_memory_are_counted_where_this_process_may_run() {
        // Every test may run on the first core, and none needs to on a second socket.
        let sysfs = p4de();
        assert!((1..=2).contains(&memory_nodes(sysfs.path())));
        assert_eq!(memory_nodes(Path::new("/nowhere")), 1);
    }
}
