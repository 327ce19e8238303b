//! The kernels that ship can be run.

use crate::ptx::lower::Globals;
use crate::ptx::{lower_entry, parse};
use std::path::Path;

#[test]
fn every_kernel_that_ships_is_lowered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/ptx");
    let files = std::fs::read_dir(&folder).expect("the kernels that ship");
    let mut entries = 0;
    for path in files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "ptx")) {
        let module =
            parse(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let globals: Globals = module.globals.iter().map(|variable| (variable.name.clone(), 4096)).collect();
        for function in module.functions.iter().filter(|function| function.is_entry) {
            let lowered = lower_entry(&module, &function.name, &globals).unwrap();
            lowered.unwrap_or_else(|error| panic!("{path:?}: {error}"));
            entries += 1;
        }
    }
    assert!(entries > 0, "{folder:?} holds no kernel");
}
