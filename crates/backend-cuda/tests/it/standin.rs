//! The stand-in libraries, under the names by which CUDA's are opened, in the folder where this program looks for them.
//!
//! With `PEREGRINE_CUDA_TESTS=device` the machine's own libraries and GPUs are tested instead.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const NAMES: [&str; 3] = ["libcuda.so", "libnccl.so", "libcublasLt.so"];

/// Makes the libraries be found; must come before anything of CUDA.
pub fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        if on_device() {
            eprintln!("testing on this machine's own GPUs");
            return;
        }
        let library = library();
        let folder = Path::new(env!("OUT_DIR")).join("standin");
        std::fs::create_dir_all(&folder).expect("a folder for the stand-in");
        for name in NAMES {
            let link = folder.join(name);
            let fresh = folder.join(format!("{name}.{}", std::process::id()));
            symlink(&library, &fresh).expect("a link to the stand-in");
            std::fs::rename(&fresh, &link).expect("a link to the stand-in");
        }
        eprintln!("testing on the stand-in {}", library.display());
    });
}

/// Whether real GPUs are tested.
pub fn on_device() -> bool {
    std::env::var("PEREGRINE_CUDA_TESTS").is_ok_and(|on| on == "device")
}

/// The stand-in, built if it is not given.
fn library() -> PathBuf {
    if let Some(given) = std::env::var_os("CUDA_STANDIN_LIBRARY") {
        return given.into();
    }
    let program = std::env::current_exe().expect("this program has a path");
    let target = program.ancestors().nth(3).expect("tests lie three levels below the target folder");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "cuda-standin", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo can be run");
    assert!(built.success(), "the stand-in could not be built");
    target.join("release/libcuda_standin.so")
}

/// Tells a process that another test has started it.
const CHILD: &str = "PEREGRINE_CUDA_TEST_CHILD";

/// Whether another test has started this process; what serves such a test does nothing else.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs one test of this program in a process of its own, with these variables. Switches of the stand-in are read once.
pub fn in_a_process(test: &str, variables: &[(&str, &str)]) -> std::process::Child {
    install();
    let program = std::env::current_exe().expect("this program has a path");
    Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("this program can be run again")
}

/// What such a process wrote, and whether it succeeded.
pub fn finish(child: std::process::Child) -> (String, bool) {
    let output = child.wait_with_output().expect("a child ends");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (text.concat(), output.status.success())
}
