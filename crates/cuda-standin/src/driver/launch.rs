//! Kernel launches: their limits, and how they run and fail.

use super::complain;
use super::context::Context;
use super::memory::View;
use super::module::Kernel;
use super::status::{Outcome, Status};
use super::stream::Stream;
use crate::config::config;
use crate::exec::FaultKind;
use crate::exec::launch::{Launch, LaunchError};
use crate::report;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Threads of a block at most.
pub const BLOCK_THREADS_MAX: u32 = 1024;
/// A block's size at most.
pub const BLOCK_MAX: [u32; 3] = [1024, 1024, 64];
/// A grid's size at most.
pub const GRID_MAX: [u32; 3] = [0x7fff_ffff, 65535, 65535];

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub shared_bytes: usize,
    /// All blocks must be held at a time.
    pub cooperative: bool,
}

/// Submits a launch with these parameters, laid out as the kernel has them.
pub fn submit(stream: &Stream, kernel: Arc<Kernel>, shape: Shape, params: Vec<u8>) -> Outcome {
    check(&kernel, &shape)?;
    let context = stream.context.clone();
    stream.submit_fn(move || run(&context, &kernel, &shape, &params))
}

fn check(kernel: &Kernel, shape: &Shape) -> Outcome {
    let within = |size: [u32; 3], max: [u32; 3]| (0..3).all(|axis| (1..=max[axis]).contains(&size[axis]));
    let threads = shape.block.iter().map(|size| u64::from(*size)).product::<u64>();
    let name = &kernel.program.name;
    if !within(shape.grid, GRID_MAX) || !within(shape.block, BLOCK_MAX) || threads > BLOCK_THREADS_MAX.into() {
        complain(&format!("{name}: a grid of {:?} with blocks of {:?}", shape.grid, shape.block));
        return Err(Status::INVALID_VALUE);
    }
    let threads_max = kernel.program.threads_max;
    if threads_max > 0 && threads > threads_max.into() {
        complain(&format!("{name}: {threads} threads, the kernel is made for {threads_max} at most"));
        return Err(Status::INVALID_VALUE);
    }
    let shared_max = kernel.dynamic_shared_max.load(Ordering::Relaxed);
    if shape.shared_bytes > shared_max {
        complain(&format!("{name}: {} bytes of dynamic shared memory, {shared_max} are allowed", shape.shared_bytes));
        return Err(Status::INVALID_VALUE);
    }
    let resident = config().model.resident(threads as u32, kernel.program.shared_bytes + shape.shared_bytes);
    let blocks = shape.grid.iter().map(|size| u64::from(*size)).product::<u64>();
    if shape.cooperative && blocks > resident as u64 {
        complain(&format!("{name}: {blocks} blocks that cooperate, the device holds {resident}"));
        return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE);
    }
    Ok(())
}

fn run(context: &Arc<Context>, kernel: &Kernel, shape: &Shape, params: &[u8]) -> Outcome {
    strike(context)?;
    let (config, program) = (config(), &kernel.program);
    let threads = shape.block.iter().product::<u32>();
    let view = View { context: context.clone() };
    let launch = Launch {
        program,
        grid: shape.grid,
        block: shape.block,
        shared_bytes: shape.shared_bytes,
        params,
        memory: &view,
        copies: config.copies,
        seed: config.seed,
        threads: config.threads,
        resident: config.model.resident(threads, program.shared_bytes + shape.shared_bytes),
        sms: config.model.sms,
        count: config.report.is_some() || report::is_on(),
        time_limit: config.time_limit,
    };
    let start = Instant::now();
    match launch.run() {
        Ok(counters) => {
            report::add(&program.name, &counters);
            if config.trace {
                let (grid, block, ms) = (shape.grid, shape.block, start.elapsed().as_secs_f64() * 1e3);
                complain(&format!(
                    "{} {grid:?} {block:?}: {} instructions, {ms:.2} ms",
                    program.name, counters.instructions
                ));
            }
            Ok(())
        }
        Err(error) => {
            complain(&error);
            Err(match error {
                LaunchError::TimeLimit { .. } => Status::LAUNCH_TIMEOUT,
                LaunchError::Fault(fault) => match fault.kind {
                    FaultKind::Address => Status::ILLEGAL_ADDRESS,
                    FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
                    FaultKind::Synchronization | FaultKind::Trap => Status::LAUNCH_FAILED,
                },
            })
        }
    }
}

/// The faults that are to happen at a launch.
fn strike(context: &Context) -> Outcome {
    let (config, device) = (config(), context.device);
    let count = context.launches.next();
    if config.strikes(config.die, device, count) {
        complain(&format!("device {device}: the process ends at kernel launch {count}"));
        die();
    }
    if config.strikes(config.ecc, device, count) {
        complain(&format!("device {device}: ECC error at kernel launch {count}"));
        return Err(Status::ECC_UNCORRECTABLE);
    }
    Ok(())
}

/// The fault that is to happen when a capture ends.
pub fn strike_capture(context: &Context) {
    let (config, device) = (config(), context.device);
    let count = context.captures.next();
    if config.strikes(config.die_capture, device, count) {
        complain(&format!("device {device}: the process ends in capture {count}"));
        die();
    }
}

/// Ends the process as the out-of-memory killer would.
fn die() -> ! {
    // A process may always kill itself.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort();
}
