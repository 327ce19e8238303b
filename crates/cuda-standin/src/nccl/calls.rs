//! The functions of the C interface.

use super::collective::{Call, Reduce, Ty, What};
use super::comm::{COMMS, Comm, of_handle};
use super::shared::UniqueId;
use super::{Failure, Outcome, code};
use crate::driver::context;
use crate::driver::{Out, c_functions};
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// NCCL 2.24.3.
const VERSION: c_int = 22403;

thread_local! {
    /// How many groups are open.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static GROUP: RefCell<Vec<Queued>> = const { RefCell::new(Vec::new()) };
}

/// What is done when the group ends.
enum Queued {
    Join { out: usize, id: UniqueId, ranks: usize, rank: usize, context: usize },
    Collective(Call),
}

fn put<T>(out: Out<'_, T>, value: T) -> Outcome {
    out.ok_or(Failure::INVALID_ARGUMENT)?.write(value);
    Ok(())
}

c_functions! { code;
    fn ncclGetVersion(version: Out<'_, c_int>) { put(version, VERSION) }

    fn ncclGetUniqueId(id: Out<'_, UniqueId>) { put(id, UniqueId::new()?) }

    fn ncclCommInitRank(comm: Out<'_, usize>, ranks: c_int, id: UniqueId, rank: c_int) { join(comm, ranks, id, rank) }

    fn ncclCommInitRankConfig(comm: Out<'_, usize>, ranks: c_int, id: UniqueId, rank: c_int, _config: *const c_void) {
        join(comm, ranks, id, rank)
    }

    fn ncclCommCount(comm: usize, count: Out<'_, c_int>) { put(count, of_handle(comm)?.ranks as c_int) }

    fn ncclCommUserRank(comm: usize, rank: Out<'_, c_int>) { put(rank, of_handle(comm)?.rank as c_int) }

    fn ncclCommCuDevice(comm: usize, device: Out<'_, c_int>) { put(device, of_handle(comm)?.device as c_int) }

    fn ncclCommGetAsyncError(comm: usize, error: Out<'_, c_uint>) { put(error, of_handle(comm)?.error()) }

    fn ncclCommFinalize(comm: usize) { of_handle(comm).map(drop) }

    fn ncclCommDestroy(comm: usize) { COMMS.remove(comm).map(drop).ok_or(Failure::INVALID_ARGUMENT) }

    fn ncclCommAbort(comm: usize) {
        COMMS.remove(comm).ok_or(Failure::INVALID_ARGUMENT)?.abort();
        Ok(())
    }

    fn ncclGroupStart() {
        DEPTH.set(DEPTH.get() + 1);
        Ok(())
    }

    fn ncclGroupEnd() { end_group() }

    fn ncclAllReduce(from: u64, to: u64, count: usize, ty: c_uint, op: c_uint, comm: usize, stream: usize) {
        let (comm, ty, what) = (of_handle(comm)?, Ty::of(ty)?, What::AllReduce(Reduce::of(op)?));
        call(Call { comm, what, from, to, count, ty, stream })
    }

    fn ncclAllGather(from: u64, to: u64, count: usize, ty: c_uint, comm: usize, stream: usize) {
        let (comm, ty) = (of_handle(comm)?, Ty::of(ty)?);
        call(Call { comm, what: What::AllGather, from, to, count, ty, stream })
    }

    fn ncclBroadcast(from: u64, to: u64, count: usize, ty: c_uint, root: c_int, comm: usize, stream: usize) {
        let (comm, ty) = (of_handle(comm)?, Ty::of(ty)?);
        let root = usize::try_from(root).ok().filter(|root| *root < comm.ranks).ok_or(Failure::INVALID_ARGUMENT)?;
        call(Call { comm, what: What::Broadcast { root }, from, to, count, ty, stream })
    }
}

fn join(out: Out<'_, usize>, ranks: c_int, id: UniqueId, rank: c_int) -> Outcome {
    let out = out.ok_or(Failure::INVALID_ARGUMENT)?;
    let number = |n: c_int| usize::try_from(n).map_err(|_| Failure::INVALID_ARGUMENT);
    let (ranks, rank) = (number(ranks)?, number(rank)?);
    if DEPTH.get() == 0 {
        out.write(COMMS.add(Comm::join(&id, ranks, rank)?));
        return Ok(());
    }
    let context = context::current().map_err(|_| Failure::UNHANDLED_CUDA)?.handle();
    let out = out.as_mut_ptr() as usize;
    GROUP.with_borrow_mut(|group| group.push(Queued::Join { out, id, ranks, rank, context }));
    Ok(())
}

fn call(call: Call) -> Outcome {
    if DEPTH.get() == 0 {
        return call.submit();
    }
    GROUP.with_borrow_mut(|group| group.push(Queued::Collective(call)));
    Ok(())
}

/// Ranks that join in one group wait for one another, so each does in a thread of its own.
fn end_group() -> Outcome {
    match DEPTH.get() {
        0 => return Err(Failure::INVALID_USAGE),
        depth => DEPTH.set(depth - 1),
    }
    if DEPTH.get() > 0 {
        return Ok(());
    }
    let (mut joins, mut calls) = (Vec::new(), Vec::new());
    for queued in GROUP.take() {
        match queued {
            Queued::Join { out, id, ranks, rank, context } => joins.push((out, id, ranks, rank, context)),
            Queued::Collective(call) => calls.push(call),
        }
    }
    let joined: Vec<Outcome<usize>> = std::thread::scope(|scope| {
        let join = |(_, id, ranks, rank, context): &(usize, UniqueId, usize, usize, usize)| {
            context::set_current(Some(context::of_handle(*context).map_err(|_| Failure::UNHANDLED_CUDA)?));
            Ok(COMMS.add(Comm::join(id, *ranks, *rank)?))
        };
        let threads: Vec<_> = joins.iter().map(|it| scope.spawn(move || join(it))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Failure::INTERNAL))).collect()
    });
    for ((out, ..), comm) in joins.iter().zip(joined) {
        let comm = comm?;
        // SAFETY: the caller of `ncclCommInitRank` has given the place of a communicator, and keeps it until the group
        // ends.
        unsafe { *(*out as *mut usize) = comm };
    }
    calls.into_iter().try_for_each(Call::submit)
}

/// What a result code means.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface has it so")]
pub extern "C" fn ncclGetErrorString(result: c_uint) -> *const c_char {
    match result {
        0 => c"no error",
        1 => c"unhandled cuda error",
        2 => c"unhandled system error",
        3 => c"internal error",
        4 => c"invalid argument",
        5 => c"invalid usage",
        6 => c"remote process exited or there was a network error",
        7 => c"NCCL operation in progress",
        _ => c"unknown result code",
    }
    .as_ptr()
}

/// What went wrong last, in words; the stand-in says it on standard error.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface has it so")]
pub extern "C" fn ncclGetLastError(_comm: usize) -> *const c_char {
    c"see standard error".as_ptr()
}
