//! `scripts/launch-p4de`.

use crate::standin::{MODEL, PEREGRINE, ROOT, finish, with_gpus};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const LAUNCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/launch-p4de");

/// As much memory of each GPU as a p4de.24xlarge has.
const MEMORY: (&str, &str) = ("CUDA_STANDIN_MEMORY_MB", "0");

#[test]
fn a_dry_run_says_what_would_be_started() {
    let addresses = ["--grpc-addr=127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let dry = |options: &[&str]| {
        let mut command = with_gpus(LAUNCH);
        finish(command.args(["--dry-run", MODEL]).args(options).args(addresses).env(MEMORY.0, MEMORY.1))
    };
    let (text, succeeded) = dry(&["--kv-tokens", "4096", "--max-batch-tokens=512"]);
    assert!(succeeded, "{text}");
    // The caller's options take the place of the profile's.
    let command = text.lines().find(|line| line.starts_with(PEREGRINE)).expect("the command is a line");
    let expected = format!("{PEREGRINE} serve --profile p4de.24xlarge --model {MODEL} --kv-tokens 4096 ");
    assert!(command.starts_with(&expected) && command.matches("--max-batch-tokens").count() == 1, "{text}");
    // It can be pasted: a shell takes it as it stands, and it would start.
    let (checked, succeeded) =
        finish(with_gpus("bash").args(["-c", &format!("{command} --check")]).env(MEMORY.0, MEMORY.1));
    assert!(succeeded && checked.contains("ready to start"), "{checked}");
    // What the server refuses is refused here, too.
    for (options, expected) in [
        (["--log-something"].as_slice(), "--log-something"),
        (&["--kv-tokens", "1000000000"], "--kv-tokens up to "),
        (&["--max-input-length", "0"], "--max-input-length is 0"),
    ] {
        let (text, succeeded) = dry(options);
        assert!(!succeeded && text.contains(expected), "{options:?}: {text}");
    }
}

#[test]
fn help_only_helps_and_unknown_options_are_errors() {
    for script in ["launch-p4de", "gpu-check", "with-standin", "examples/run-all", "examples/http.sh"] {
        let script = format!("{ROOT}/scripts/{script}");
        // Neither a program nor a model is there.
        let run = |option: &str| {
            let bare =
                Command::new(&script).arg(option).env_remove("PEREGRINE").env("CARGO_TARGET_DIR", "/nowhere").output();
            let output = bare.expect("a script runs");
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        for option in ["--help", "-h"] {
            let (code, said) = run(option);
            assert!(code == Some(0) && said.contains("scripts/"), "{script} {option}: {code:?} {said}");
        }
        if !script.ends_with("gpu-check") {
            let (code, _) = run("--no-such-option");
            assert_eq!(code, Some(2), "{script}");
        }
    }
}

#[test]
fn a_dry_run_fails_where_the_launch_would() {
    for (variable, value, expected) in [
        ("CUDA_STANDIN_DEVICES", "4", "--tensor-parallel 8 needs 8 GPUs, and the driver finds 4"),
        ("CUDA_STANDIN_NO_PEER", "all", "GPU 0 cannot access the memory of GPU 1"),
        ("CUDA_STANDIN_NVML", "7.mig=1", "MIG: GPU 7 is partitioned"),
    ] {
        let (text, succeeded) = finish(with_gpus(LAUNCH).args(["--dry-run", MODEL]).env(variable, value));
        assert!(!succeeded && text.contains(expected) && text.contains("this machine cannot serve"), "{text}");
    }
    let (text, succeeded) = finish(with_gpus(LAUNCH).args(["--dry-run", "/nowhere"]));
    assert!(!succeeded && text.contains("/nowhere/config.json: there is no such file"), "{text}");
}

#[test]
fn a_profile_is_held_to_the_machine_and_sets_what_nobody_has_set() {
    let serve = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = with_gpus(PEREGRINE);
        command.args(arguments).args(["--model", MODEL, "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        finish(command.envs(variables.iter().copied()))
    };
    let check = ["serve", "--check", "--profile", "p4de.24xlarge"];
    let (text, succeeded) = serve(&check, &[MEMORY]);
    assert!(succeeded && text.contains("over 8 workers, backend cuda: ready to start"), "{text}");
    for origin in ["profile p4de.24xlarge: --tensor-parallel 8", "profile p4de.24xlarge: --max-batch-tokens 2048"] {
        assert!(text.contains(origin), "{text}");
    }
    for (variables, expected) in [
        (&[MEMORY, ("CUDA_STANDIN_DEVICES", "4")][..], "expected 8 GPUs (A100-80GB), and the driver finds 4"),
        (&[MEMORY, ("CUDA_STANDIN_MODEL", "H100")], "expected GPUs A100-80GB, and GPU 0 is Stand-in H100-SXM5-80GB"),
        (&[], "expected GPUs A100-80GB, and GPU 0 is Stand-in A100-SXM4-80GB with 4.29 GB"),
    ] {
        let (text, succeeded) = serve(&check, variables);
        assert!(!succeeded && text.contains("--profile p4de.24xlarge: ") && text.contains(expected), "{text}");
    }
    let (text, succeeded) =
        serve(&["config", "--profile", "local"], &[("CUDA_STANDIN_DEVICES", "3"), ("NUM_SHARD", "2")]);
    let of = |flag: &str| text.lines().find(|line| line.split(' ').next() == Some(flag)).unwrap_or_default();
    assert!(succeeded && of("--backend").ends_with("profile local") && of("--backend").contains(" cuda "), "{text}");
    assert!(of("--tensor-parallel").ends_with("variable NUM_SHARD"), "{text}");
}

/// Ends what it started, whatever becomes of the test.
struct Launched(Child);

impl Launched {
    /// As Ctrl-c does: all of the group get it.
    fn signal(&self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        // If it has ended there is nobody to signal.
        let _ = kill_process_group(group, Signal::TERM);
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.signal();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string()
}

#[test]
fn a_launch_waits_for_health_and_ends_with_a_signal() {
    let (http, grpc) = (free_address(), free_address());
    let child = with_gpus(LAUNCH)
        .args([MODEL, "--kv-tokens", "256", "--max-total-tokens", "64", "--max-batch-tokens", "16"])
        .args(["--http-addr", &http, "--grpc-addr", &grpc])
        .env("LOAD_LIMIT_S", "120")
        .env(MEMORY.0, MEMORY.1)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the script can be started");
    let mut launched = Launched(child);
    let mut lines = BufReader::new(launched.0.stdout.take().expect("piped")).lines();
    let ready = lines.by_ref().map_while(Result::ok).any(|line| line == "The model is ready.");
    let mut errors = launched.0.stderr.take().expect("piped");
    if ready {
        let (text, succeeded) =
            finish(Command::new(PEREGRINE).args(["generate", "--server", &grpc, "Once", "--max-new-tokens", "2"]));
        assert!(succeeded, "{text}");
    }
    launched.signal();
    let mut told = String::new();
    // To its end: the server's.
    errors.read_to_string(&mut told).expect("text");
    assert!(ready && told.contains("finishing 0 requests") && !told.contains("stopping at once"), "{told}");
}
