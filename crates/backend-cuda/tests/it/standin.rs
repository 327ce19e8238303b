//! The stand-in libraries, under the names by which CUDA's are opened, in the folder where this program looks for them.
//!
//! With `PEREGRINE_CUDA_TESTS=device` the machine's own libraries and GPUs are tested instead.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Makes the libraries be found; must come before anything of CUDA.
pub fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        if on_device() {
            eprintln!("testing on this machine's own GPUs");
            return;
        }
        let folder = Path::new(env!("OUT_DIR")).join("standin");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/with-standin");
        let filled = Command::new(script).arg("--folder").arg(&folder).output().expect("a script that runs");
        assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
        eprintln!("testing on the stand-in in {}", folder.display());
    });
}

/// Whether real GPUs are tested.
pub fn on_device() -> bool {
    std::env::var("PEREGRINE_CUDA_TESTS").is_ok_and(|on| on == "device")
}

/// Tells a process that another test has started it.
const CHILD: &str = "PEREGRINE_CUDA_TEST_CHILD";

/// Whether another test has started this process; what serves such a test does nothing else.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs one test of this program in a process of its own, with these variables. Switches of the stand-in are read once.
pub fn in_a_process(test: &str, variables: &[(&str, &str)]) -> std::process::Child {
    tests_in_a_process(&["--exact", test, "--nocapture"], variables, Stdio::null())
}

/// Runs the tests for which the arguments ask in such a process, with this as its standard input.
pub fn tests_in_a_process(arguments: &[&str], variables: &[(&str, &str)], input: Stdio) -> std::process::Child {
    install();
    let program = std::env::current_exe().expect("this program has a path");
    Command::new(program)
        .args(arguments)
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be run again")
}

/// What such a process wrote, and whether it succeeded.
pub fn finish(child: std::process::Child) -> (String, bool) {
    let output = child.wait_with_output().expect("a child ends");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (text.concat(), output.status.success())
}
