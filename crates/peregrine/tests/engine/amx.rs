//! Workers for the matrix unit on CPUs without one: processes of this test program, in which a stand-in executes its
//! instructions. The program that ships has no such thing.

use backend_cpu::Isa;
use runtime::{CudaSettings, open_rank};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use worker::{LoadProgress, RankSpec};

/// Set for a worker.
const VARIABLE: &str = "AMX_WORKER";

/// Whether the CPU has a matrix unit. Where it has none, the stand-in is there after this.
pub fn is_native() -> bool {
    static NATIVE: OnceLock<bool> = OnceLock::new();
    *NATIVE.get_or_init(|| {
        let native = Isa::Amx.supported();
        if !native {
            amx_standin::install();
        }
        native
    })
}

/// Arguments and variables with which this program is a worker. Whatever arguments follow are names of no tests.
pub fn worker() -> (Vec<OsString>, Vec<(OsString, OsString)>) {
    let arguments = ["--exact", "amx::one_rank", "--nocapture", "--"].map(OsString::from).to_vec();
    (arguments, vec![(VARIABLE.into(), "1".into())])
}

/// Not a test of its own, but a worker, where a test starts one: it serves the coordinator at its standard input.
#[test]
fn one_rank() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    assert!(!is_native(), "the program that ships would do");
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("standard input"));
    let rendezvous = wire::take_over(&socket).expect("the coordinator's first word");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let open =
        move |spec: &RankSpec, progress: &LoadProgress| open_rank(spec, rendezvous, &CudaSettings::default(), progress);
    runtime.block_on(worker::serve(socket, open)).expect("the coordinator closes the connection");
    std::process::exit(0);
}
