//! The stand-in libraries of CUDA, for programs that are started: they run the kernels that ship, on the CPU.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The variables with which a program finds them, and takes one thread for each device: the ranks have others.
pub fn environment() -> [(&'static str, String); 2] {
    static FOLDER: OnceLock<String> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/with-standin");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standin");
        let filled = Command::new(script).arg("--folder").arg(folder).output().expect("a script that runs");
        assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
        String::from_utf8(filled.stdout).expect("UTF-8").trim_end().to_owned()
    });
    [("LD_LIBRARY_PATH", folder.clone()), ("CUDA_STANDIN_THREADS", "1".to_owned())]
}
