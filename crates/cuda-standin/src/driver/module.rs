//! Modules: PTX, its variables and its kernels.

use super::context::Context;
use super::memory::{self, Kind};
use super::status::{Outcome, Status};
use crate::config::{SHARED_DEFAULT_BYTES, config};
use crate::handles::Handles;
use crate::ptx::syntax::Variable;
use crate::ptx::{Program, lower_entry, parse};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// A loaded module.
pub struct Module {
    /// Entries by name: handles of [`KERNELS`].
    kernels: HashMap<String, usize>,
    /// Address and bytes of each variable.
    variables: HashMap<String, (u64, usize)>,
}

/// A kernel.
pub struct Kernel {
    pub program: Program,
    /// Dynamic shared memory that a launch may ask for.
    pub dynamic_shared_max: AtomicUsize,
}

/// Modules by their handles.
pub static MODULES: Handles<Module> = Handles::new();
/// Kernels by their handles.
pub static KERNELS: Handles<Kernel> = Handles::new();

/// What a module load that failed says.
pub struct LoadError {
    pub status: Status,
    pub log: String,
}

fn error(status: Status, log: String) -> LoadError {
    LoadError { status, log }
}

/// Loads PTX into a context. Every entry is lowered: what cannot run is an error now, not at its launch.
pub fn load(context: &Context, source: &str) -> Result<usize, LoadError> {
    let replaced = replacement(source)?;
    let source = replaced.as_deref().unwrap_or(source);
    check_version(source)?;
    let invalid = |what: String| error(Status::INVALID_PTX, what);
    let parsed = parse(source).map_err(|what| invalid(what.to_string()))?;
    let mut module = Module { kernels: HashMap::new(), variables: HashMap::new() };
    for variable in &parsed.globals {
        let address =
            place(context, variable).map_err(|status| error(status, format!("variable {}", variable.name)))?;
        module.variables.insert(variable.name.clone(), (address, variable.bytes()));
    }
    let globals = module.variables.iter().map(|(name, (address, _))| (name.clone(), *address)).collect();
    for function in parsed.functions.iter().filter(|function| function.is_entry) {
        let lowered = lower_entry(&parsed, &function.name, &globals).expect("the entry is there");
        let program = lowered.map_err(|what| invalid(what.to_string()))?;
        let most = SHARED_DEFAULT_BYTES.saturating_sub(program.shared_bytes);
        let kernel = Kernel { program, dynamic_shared_max: AtomicUsize::new(most) };
        module.kernels.insert(function.name.clone(), KERNELS.add(Arc::new(kernel)));
    }
    Ok(MODULES.add(Arc::new(module)))
}

/// What runs in place of `source`, if a switch says so: tests are tested by kernels that have been broken.
fn replacement(source: &str) -> Result<Option<String>, LoadError> {
    let Some(path) = &config().ptx else { return Ok(None) };
    let broken = |what: std::io::Error| error(Status::FILE_NOT_FOUND, format!("CUDA_STANDIN_PTX: {path}: {what}"));
    let text = std::fs::read_to_string(path).map_err(broken)?;
    Ok((entries(&text) == entries(source)).then_some(text))
}

/// The names of the kernels.
fn entries(source: &str) -> Vec<&str> {
    let names = source.lines().filter_map(|line| line.trim().split_once(".entry "));
    names.map(|(_, rest)| rest.split('(').next().unwrap_or(rest).trim()).collect()
}

/// The PTX version must be one that the driver knows, and the target one that the device is.
fn check_version(source: &str) -> Result<(), LoadError> {
    let directive =
        |name: &str| source.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim).unwrap_or_default();
    let version: Option<i32> = directive(".version")
        .split_once('.')
        .and_then(|(major, minor)| Some(10 * major.parse::<i32>().ok()? + minor.parse::<i32>().ok()?));
    let Some(version) = version else {
        return Err(error(Status::INVALID_PTX, "there is no .version".to_owned()));
    };
    let newest = ptx_of_driver(config().driver);
    if version > newest {
        let log = format!("PTX {version} is newer than {newest}, the newest that this driver knows (in tenths)");
        return Err(error(Status(222), log));
    }
    let target: i32 = directive(".target")
        .trim_start_matches("sm_")
        .chars()
        .map_while(|digit| digit.to_digit(10))
        .fold(0, |n, d| 10 * n + d as i32);
    let (major, minor) = config().model.capability;
    if target == 0 || target > 10 * major + minor {
        return Err(error(Status(209), format!("the target is sm_{target}, the device is sm_{major}{minor}")));
    }
    Ok(())
}

/// The newest PTX version, in tenths, that a driver of a CUDA version knows.
fn ptx_of_driver(driver: i32) -> i32 {
    match (driver / 1000, driver % 1000 / 10) {
        (12, minor @ 0..=5) => 80 + minor,
        (12, 6) => 85,
        (12, minor) => 79 + minor,
        (11, minor) => 70 + minor,
        (major, _) if major > 12 => 90,
        _ => 65,
    }
}

/// Gives a variable memory, with its first values.
fn place(context: &Context, variable: &Variable) -> Outcome<u64> {
    let mut bytes = Vec::with_capacity(variable.bytes());
    for bits in &variable.init {
        bytes.extend_from_slice(&bits.to_le_bytes()[..variable.ty.bytes()]);
    }
    bytes.resize(variable.bytes().max(1), 0);
    let address = memory::allocate(Kind::Module, context.device, bytes.len())?;
    // SAFETY: the allocation has as many bytes, and nobody else knows of it.
    unsafe { memory::copy(address, bytes.as_ptr() as u64, bytes.len()) };
    Ok(address)
}

/// Unloads a module.
pub fn unload(handle: usize) -> Outcome {
    let module = MODULES.remove(handle).ok_or(Status::INVALID_HANDLE)?;
    for kernel in module.kernels.values() {
        KERNELS.remove(*kernel);
    }
    module.variables.values().try_for_each(|(address, _)| memory::free(*address, &[Kind::Module]))
}

impl Module {
    /// The handle of a kernel.
    pub fn kernel(&self, name: &str) -> Outcome<usize> {
        self.kernels.get(name).copied().ok_or(Status::NOT_FOUND)
    }

    /// Address and bytes of a variable.
    pub fn variable(&self, name: &str) -> Outcome<(u64, usize)> {
        self.variables.get(name).copied().ok_or(Status::NOT_FOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_know_ptx_up_to_their_own() {
        for (driver, newest) in [(11080, 78), (12000, 80), (12020, 82), (12050, 85), (12060, 85), (12090, 88)] {
            assert_eq!(ptx_of_driver(driver), newest, "{driver}");
        }
    }
}
