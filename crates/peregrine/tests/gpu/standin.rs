//! Commands over the stand-in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The repository's root.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// The command.
pub const PEREGRINE: &str = env!("CARGO_BIN_EXE_peregrine");
/// The demo model.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/falcon-demo");

/// A command of the repository that sees the stand-in's GPUs.
pub fn with_gpus(program: &str) -> Command {
    let mut command = Command::new(Path::new(ROOT).join("scripts/with-standin"));
    command.arg(program).current_dir(ROOT).env("PEREGRINE", PEREGRINE).env("CUDA_STANDIN_LIBRARY", library());
    command
}

/// The stand-in, built once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standin-of-gpu");
        let script = Path::new(ROOT).join("scripts/with-standin");
        let (said, succeeded) = finish(Command::new(script).arg("--folder").arg(&folder));
        assert!(succeeded, "{said}");
        folder.join("libcuda.so").canonicalize().expect("it was filled")
    })
}

/// What a command wrote to both outputs, and whether it succeeded.
pub fn finish(command: &mut Command) -> (String, bool) {
    let Output { status, stdout, stderr } = command.output().expect("the command can be started");
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (text, status.success())
}
