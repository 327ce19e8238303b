//! What a machine lacks is told before anything is loaded.

use crate::standin::{MODEL, PEREGRINE, finish, with_gpus};
use std::process::Command;

/// What the stand-in is told, and what is said of it.
const LACKS: [(&str, &str, &str); 4] = [
    ("CUDA_STANDIN_DRIVER", "11080", "the NVIDIA driver has CUDA 11.8, expected 12.2 or later (driver R535)"),
    ("CUDA_STANDIN_DEVICES", "0", "the NVIDIA driver finds no GPU"),
    ("CUDA_STANDIN_DEVICES", "3", "--tensor-parallel 8 needs 8 GPUs, and the driver finds 3"),
    ("CUDA_STANDIN_MEMORY_MB", "1", "a rank has 0.00 GB of memory and needs "),
];

/// One argument of the command after the other, as they would be typed.
fn arguments(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ')
}

#[test]
fn each_lack_has_a_message_of_its_own() {
    // No stand-in: these machines have no driver, or a real one.
    let no_driver = "no NVIDIA driver: libcuda.so cannot be opened";
    for line in [
        "doctor --no-measure --backend cuda --tensor-parallel 8",
        "serve --backend cuda --tensor-parallel 8 --grpc-addr 127.0.0.1:0",
    ] {
        let mut bare = Command::new(PEREGRINE);
        bare.args(arguments(line)).args(["--model", MODEL]).env("LD_LIBRARY_PATH", "");
        let (text, succeeded) = finish(&mut bare);
        assert!(!succeeded && (text.contains(no_driver) || text.contains("GPU")), "{line}: {text}");
        for (variable, value, expected) in LACKS {
            let mut command = with_gpus(PEREGRINE);
            command.args(arguments(line)).args(["--model", MODEL, "--kv-tokens", "16384"]).env(variable, value);
            let (text, succeeded) = finish(&mut command);
            assert!(!succeeded && text.contains(expected), "{line} with {variable}={value}: {text}");
        }
    }
}

#[test]
fn peers_are_asked_for_where_they_must_be_there() {
    let doctor = |strict: &[&str]| {
        let mut command = with_gpus(PEREGRINE);
        command
            .args(["doctor", "--no-measure", "--tensor-parallel", "3"])
            .args(strict)
            .env("CUDA_STANDIN_NO_PEER", "0-1");
        finish(&mut command)
    };
    let expected = "GPU 0 cannot access the memory of GPU 1";
    let (text, succeeded) = doctor(&[]);
    assert!(succeeded && text.contains(expected) && text.ends_with("ready\n"), "{text}");
    let (text, succeeded) = doctor(&["--strict"]);
    assert!(!succeeded && text.contains(expected), "{text}");
}

#[test]
fn cores_next_to_gpus_are_shown() {
    let sysfs = tempfile::tempdir().expect("a folder");
    for (gpu, cores, node) in [("01", "0-23,48-71", "0"), ("02", "24-47,72-95", "1")] {
        let device = sysfs.path().join(format!("bus/pci/devices/0000:{gpu}:00.0"));
        std::fs::create_dir_all(&device).expect("a folder");
        std::fs::write(device.join("local_cpulist"), format!("{cores}\n")).expect("a file");
        std::fs::write(device.join("numa_node"), format!("{node}\n")).expect("a file");
    }
    let mut command = with_gpus(PEREGRINE);
    command.args(["doctor", "--no-measure", "--tensor-parallel", "2", "--sysfs"]).arg(sysfs.path());
    let (text, succeeded) = finish(command.env("CUDA_STANDIN_DEVICES", "3"));
    assert!(succeeded, "{text}");
    for expected in ["next to it: 0-23,48-71 (node 0)", "next to it: 24-47,72-95 (node 1)", "next to it: unknown"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
