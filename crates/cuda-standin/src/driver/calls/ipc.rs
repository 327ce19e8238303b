//! Device memory of other processes.
//!
//! A handle says in which process's memory file the allocation lies, and where: the opener maps it through that process's
//! list of open files, so that no name is left anywhere.

use super::super::context::current;
use super::super::memory::{self, Kind};
use super::super::status::{Outcome, Status};
use super::super::{Out, c_functions, code, complain, put};
use crate::config::config;
use rustix::fd::{AsRawFd, OwnedFd};
use std::ffi::c_uint;
use std::fs::OpenOptions;

/// `CUipcMemHandle`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct IpcHandle {
    magic: u64,
    process: u64,
    file: u64,
    file_bytes: u64,
    offset: u64,
    bytes: u64,
    device: u64,
    reserved: u64,
}

const MAGIC: u64 = 0x6375_7374_616e_6469;
/// The only flag there is; without it the driver refuses.
const LAZY_ENABLE_PEER_ACCESS: c_uint = 1;

c_functions! { code;
    fn cuIpcGetMemHandle(handle: Out<'_, IpcHandle>, address: u64) {
        current()?;
        let table = memory::allocations();
        let (start, allocation) = memory::find(&table, address).ok_or(Status::INVALID_VALUE)?;
        let Some(file) = &allocation.file else {
            complain(&format!("{:?} memory of {} bytes cannot be shared between processes", allocation.kind, allocation.bytes));
            return Err(Status::INVALID_VALUE);
        };
        put(handle, IpcHandle {
            magic: MAGIC,
            process: std::process::id().into(),
            file: file.as_raw_fd() as u64,
            file_bytes: allocation.file_bytes() as u64,
            offset: allocation.file_offset(start),
            bytes: allocation.bytes as u64,
            device: allocation.device as u64,
            reserved: 0,
        })
    }

    fn cuIpcOpenMemHandle_v2(address: Out<'_, u64>, handle: IpcHandle, flags: c_uint) {
        let device = current()?.device;
        if handle.magic != MAGIC || flags != LAZY_ENABLE_PEER_ACCESS {
            return Err(Status::INVALID_VALUE);
        }
        if handle.process == u64::from(std::process::id()) {
            return Err(Status::INVALID_CONTEXT);
        }
        if !config().peers(device, handle.device as usize) {
            return Err(Status::PEER_ACCESS_UNSUPPORTED);
        }
        let file = open(&handle)?;
        put(address, memory::import(device, &file, handle.file_bytes as usize, handle.offset, handle.bytes as usize)?)
    }

    fn cuIpcCloseMemHandle(address: u64) {
        current()?.synchronize()?;
        memory::free(address, &[Kind::Imported])
    }
}

fn open(handle: &IpcHandle) -> Outcome<OwnedFd> {
    let path = format!("/proc/{}/fd/{}", handle.process, handle.file);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|_| Status::INVALID_HANDLE)?;
    let bytes = file.metadata().map_err(|_| Status::INVALID_HANDLE)?.len();
    if bytes == handle.file_bytes { Ok(file.into()) } else { Err(Status::INVALID_HANDLE) }
}
