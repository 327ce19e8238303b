//! `peregrine doctor` over the stand-in: a healthy p4de.24xlarge, and broken ones, each named with its remedy.

use crate::standin::{MODEL, PEREGRINE, with_gpus};
use std::path::Path;
use tempfile::TempDir;

/// One line of the report.
#[derive(Debug, serde::Deserialize)]
struct Check {
    name: String,
    verdict: String,
    found: String,
    remedy: Option<String>,
}

#[derive(Debug, serde::Deserialize)]
struct Report {
    ready: bool,
    checks: Vec<Check>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

/// The files of a node that limits nothing.
const FILES: [(&str, &str); 3] = [
    ("proc/self/mounts", "tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n"),
    ("proc/self/limits", "Max locked memory         unlimited            unlimited            bytes\n"),
    ("proc/self/cgroup", "0::/\n"),
];

/// The files of such a node, with others in their place or beside them.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = TempDir::new().expect("a folder");
    for (path, text) in FILES.iter().chain(files) {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    root
}

/// What is said of a p4de.24xlarge with these switches of the stand-in.
fn doctor(root: &Path, switches: &[(&str, &str)]) -> Report {
    let mut command = with_gpus(PEREGRINE);
    command
        .args(["doctor", "--backend", "cuda", "--tensor-parallel", "8", "--strict", "--no-measure", "--json", "--root"])
        .arg(root);
    // The disk is this machine's.
    command.arg("--sysfs").arg(root.join("sys")).args(["--model", MODEL]).env("CUDA_STANDIN_MEMORY_MB", "0");
    command.envs(switches.iter().copied());
    let output = command.output().expect("the command can be started");
    let report: Report = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    assert_eq!(output.status.success(), report.ready, "{report:?}");
    report
}

#[test]
fn a_healthy_p4de() {
    let report = doctor(root(&[]).path(), &[]);
    assert!(report.ready && report.problems.is_empty(), "{report:?}");
    for name in [
        "ECC",
        "memory repair",
        "clocks",
        "power limit",
        "throttling",
        "MIG",
        "persistence",
        "PCIe",
        "NVLink",
        "NVLink pairs",
        "/dev/shm",
        "memlock",
        "pids",
        "cgroup memory",
    ] {
        let check =
            report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name}: {report:?}"));
        assert!(check.verdict == "pass" && check.remedy.is_none(), "{check:?}");
    }
}

/// What NVML tells, and which line it leads to: its name, its verdict, what it says, and its remedy.
const BROKEN_GPUS: [(&str, &str, &str, &str, &str); 15] = [
    ("3.ecc_uncorrected=2", "ECC", "fail", "GPU 3 has 2 uncorrected errors", "nvidia-smi -i 3 -r, or reboot"),
    (
        "0.ecc_uncorrected_ever=7",
        "ECC",
        "warn",
        "GPU 0 has had 7 uncorrected errors",
        "nvidia-smi -i 0 -q -d ECC,ROW_REMAPPER",
    ),
    ("1.ecc=0", "ECC", "warn", "GPU 1 has ECC off", "nvidia-smi -i 1 -e 1"),
    ("2.remap_pending=1", "memory repair", "fail", "GPU 2 has broken memory that is replaced", "nvidia-smi -i 2 -r"),
    ("2.remap_failed=1", "memory repair", "fail", "no spare rows left", "stop and start the instance"),
    ("4.clock=1275", "clocks", "warn", "GPU 4 is set to 1275 of 1410 MHz", "nvidia-smi -i 4 -ac 1593,1410"),
    ("5.power_mw=300000", "power limit", "warn", "GPU 5 may take 300 W, by default 400 W", "nvidia-smi -i 5 -pl 400"),
    (
        "6.throttling=72",
        "throttling",
        "fail",
        "half its clock or less by its hardware: it is too hot",
        "-q -d TEMPERATURE,POWER",
    ),
    ("6.throttling=4", "throttling", "warn", "by the driver: it is at its limit of power", "power limit"),
    ("7.mig=1", "MIG", "fail", "GPU 7 is partitioned", "nvidia-smi -i 7 -mig 0"),
    ("0.persistence=0", "persistence", "warn", "set up anew for each first process", "nvidia-smi -i 0 -pm 1"),
    ("1.pcie_width=8", "PCIe", "warn", "PCIe 4 x8, of 4 x16", "reseat the card"),
    ("1.pcie_generation=1,1.throttling=0", "PCIe", "warn", "PCIe 1 x16, of 4 x16", "stop and start the instance"),
    ("5.link_down=4", "NVLink", "fail", "GPU 5 has 1 of 12 links down: 4", "nvidia-smi nvlink -s -i 5"),
    ("2.lost=1", "GPU lost", "fail", "GPU 2 does not answer", "reboot (dmesg | grep Xid"),
];

#[test]
fn broken_gpus_are_named_with_their_remedies() {
    let root = root(&[]);
    for (facts, name, verdict, found, remedy) in BROKEN_GPUS {
        let report = doctor(root.path(), &[("CUDA_STANDIN_NVML", facts)]);
        let wrong: Vec<&Check> = report.checks.iter().filter(|check| check.verdict != "pass").collect();
        let [check] = wrong[..] else { panic!("{facts}: {wrong:?}") };
        assert_eq!((&*check.name, &*check.verdict), (name, verdict), "{facts}");
        assert!(check.found.contains(found), "{facts}: {check:?}");
        assert!(check.remedy.as_ref().is_some_and(|told| told.contains(remedy)), "{facts}: {check:?}");
        let all = if verdict == "fail" { &report.problems } else { &report.warnings };
        assert!(all.iter().any(|told| told.contains(found) && told.contains(remedy)), "{facts}: {report:?}");
        assert_eq!(report.ready, verdict != "fail", "{facts}");
    }
}

#[test]
fn pairs_without_nvlink_are_named() {
    let report = doctor(root(&[]).path(), &[("CUDA_STANDIN_NO_PEER", "1-5")]);
    let check = report.checks.iter().find(|check| check.name == "NVLink pairs").expect("a line");
    assert!(check.verdict == "fail" && check.found.contains(": 1-5 ("), "{check:?}");
    assert!(check.remedy.as_ref().is_some_and(|remedy| remedy.contains("nvidia-fabricmanager")), "{check:?}");
}

#[test]
fn a_narrow_container_is_named() {
    let files = [
        ("proc/self/mounts", "shm /dev/shm tmpfs rw,size=65536k 0 0\n"),
        ("proc/self/limits", "Max locked memory         65536                65536                bytes\n"),
        ("sys/fs/cgroup/pids.max", "200\n"),
        ("sys/fs/cgroup/memory.max", "4294967296\n"),
    ];
    let report = doctor(root(&files).path(), &[]);
    for (name, verdict, remedy) in [
        ("/dev/shm", "warn", "--shm-size"),
        ("memlock", "warn", "--ulimit memlock=-1"),
        ("pids", "fail", "--pids-limit"),
        ("cgroup memory", "fail", "MemoryMax="),
    ] {
        let check = report.checks.iter().find(|check| check.name == name).expect("a line");
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert!(check.remedy.as_ref().is_some_and(|told| told.contains(remedy)), "{check:?}");
    }
    assert!(!report.ready);
}

/// Over the stand-in sums take too long, and are told with what they should take; nothing else stands in the way.
#[test]
fn sums_are_measured_by_what_serves() {
    let mut command = with_gpus(PEREGRINE);
    command.args(["doctor", "--backend", "cuda", "--tensor-parallel", "2", "--json"]);
    let output = command.env("CUDA_STANDIN_THREADS", "1").output().expect("the command can be started");
    let report: Report = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    let check = report.checks.iter().find(|check| check.name == "all-reduce").expect("a line");
    assert!(check.found.starts_with("over 2 ranks: 30 KB in ") && check.found.contains("expected 7."), "{check:?}");
    assert!(report.checks.iter().any(|check| check.name == "memory read"), "{report:?}");
    assert_ne!(check.verdict, "fail", "{check:?}");
}

#[test]
fn ranks_on_cpus_are_measured_too() {
    let mut command = std::process::Command::new(PEREGRINE);
    let output =
        command.args(["doctor", "--backend", "cpu", "--tensor-parallel", "2", "--json", "--model", MODEL]).output();
    let output = output.expect("the command can be started");
    let report: Report = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    for name in ["memory read", "all-reduce", "disk"] {
        let check =
            report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name}: {report:?}"));
        assert_ne!(check.verdict, "fail", "{check:?}");
    }
    let sums = report.checks.iter().find(|check| check.name == "all-reduce").expect("a line");
    assert!(sums.found.starts_with("over 2 ranks: 30 KB in "), "{sums:?}");
}
