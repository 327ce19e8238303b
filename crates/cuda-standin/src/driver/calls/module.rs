//! Modules, kernels and their launches.

use super::super::capture;
use super::super::context::current;
use super::super::launch::{self, Shape};
use super::super::module::{self, KERNELS, Kernel, MODULES};
use super::super::status::{Outcome, Status};
use super::super::stream;
use super::super::{Out, c_functions, code, complain, put};
use super::{put_text, text};
use crate::config::{SHARED_RESERVED_BYTES, config};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `CU_JIT_ERROR_LOG_BUFFER` and the size of it.
const ERROR_LOG: c_uint = 5;
const ERROR_LOG_BYTES: c_uint = 6;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const DYNAMIC_SHARED_MAX: c_int = 8;
/// `CU_LAUNCH_PARAM_BUFFER_POINTER`, `CU_LAUNCH_PARAM_BUFFER_SIZE`.
const PARAM_BUFFER: usize = 1;
const PARAM_BUFFER_BYTES: usize = 2;
/// `CU_LAUNCH_ATTRIBUTE_COOPERATIVE`.
const ATTRIBUTE_COOPERATIVE: c_uint = 2;

/// `CUlaunchConfig`.
#[repr(C)]
pub(super) struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: usize,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C)]
struct LaunchAttribute {
    id: c_uint,
    pad: c_uint,
    value: [u32; 16],
}

/// Pointers to a kernel's arguments.
type Arguments = *const *const c_void;

c_functions! { code;
    fn cuModuleLoadData(module: Out<'_, usize>, image: *const c_void) {
        put(module, load(image).map_err(|(status, _)| status)?)
    }

    fn cuModuleLoadDataEx(
        module: Out<'_, usize>,
        image: *const c_void,
        count: c_uint,
        options: *const c_uint,
        values: *const *mut c_void,
    ) {
        let (status, log) = match load(image) {
            Ok(handle) => return put(module, handle),
            Err(error) => error,
        };
        let option = |wanted: c_uint| {
            (0..count as usize).find_map(|nth| {
                // SAFETY: the caller gives `count` options, with a value each.
                let (option, value) = unsafe { (*options.add(nth), *values.add(nth)) };
                (option == wanted).then_some(value)
            })
        };
        if let (Some(buffer), Some(bytes)) = (option(ERROR_LOG), option(ERROR_LOG_BYTES)) {
            put_text(buffer.cast(), bytes as usize as c_int, &log)?;
        }
        Err(status)
    }

    fn cuModuleLoad(module: Out<'_, usize>, path: *const c_char) {
        let mut image = std::fs::read(text(path)?).map_err(|_| Status::FILE_NOT_FOUND)?;
        image.push(0);
        put(module, load(image.as_ptr().cast()).map_err(|(status, _)| status)?)
    }

    fn cuModuleUnload(module: usize) { module::unload(module) }

    fn cuModuleGetFunction(kernel: Out<'_, usize>, module: usize, name: *const c_char) {
        let module = MODULES.get(module).ok_or(Status::INVALID_HANDLE)?;
        put(kernel, module.kernel(text(name)?)?)
    }

    fn cuModuleGetGlobal_v2(address: Out<'_, u64>, bytes: Out<'_, usize>, module: usize, name: *const c_char) {
        let module = MODULES.get(module).ok_or(Status::INVALID_HANDLE)?;
        let (at, size) = module.variable(text(name)?)?;
        address.map_or(Ok(()), |out| put(Some(out), at))?;
        bytes.map_or(Ok(()), |out| put(Some(out), size))
    }

    fn cuFuncSetAttribute(kernel: usize, attribute: c_int, value: c_int) {
        let kernel = KERNELS.get(kernel).ok_or(Status::INVALID_HANDLE)?;
        if attribute == DYNAMIC_SHARED_MAX {
            let bytes = usize::try_from(value).map_err(|_| Status::INVALID_VALUE)?;
            if bytes + kernel.program.shared_bytes > config().model.shared_optin_bytes {
                return Err(Status::INVALID_VALUE);
            }
            kernel.dynamic_shared_max.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cuFuncGetAttribute(value: Out<'_, c_int>, attribute: c_int, kernel: usize) {
        let kernel = KERNELS.get(kernel).ok_or(Status::INVALID_HANDLE)?;
        let program = &kernel.program;
        let threads_max = if program.threads_max == 0 { launch::BLOCK_THREADS_MAX } else { program.threads_max };
        let (major, minor) = config().model.capability;
        put(value, match attribute {
            0 => threads_max as c_int,
            1 => program.shared_bytes as c_int,
            3 => program.local_bytes as c_int,
            5 => 80,
            6 => 10 * major + minor,
            DYNAMIC_SHARED_MAX => kernel.dynamic_shared_max.load(Ordering::Relaxed) as c_int,
            _ => 0,
        })
    }

    fn cuFuncSetCacheConfig(kernel: usize, _config: c_uint) {
        KERNELS.get(kernel).map(drop).ok_or(Status::INVALID_HANDLE)
    }

    fn cuLaunchKernel(
        kernel: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: usize,
        arguments: Arguments,
        extra: Arguments,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, shared_bytes: shared_bytes as usize, cooperative: false };
        submit(kernel, shape, stream, arguments, extra)
    }

    fn cuLaunchCooperativeKernel(
        kernel: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: usize,
        arguments: Arguments,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, shared_bytes: shared_bytes as usize, cooperative: true };
        submit(kernel, shape, stream, arguments, std::ptr::null())
    }

    fn cuLaunchKernelEx(config: Option<&LaunchConfig>, kernel: usize, arguments: Arguments, extra: Arguments) {
        let config = config.ok_or(Status::INVALID_VALUE)?;
        let attributes: &[LaunchAttribute] = if config.count == 0 {
            &[]
        } else {
            // SAFETY: the caller gives `count` attributes.
            unsafe { std::slice::from_raw_parts(config.attributes, config.count as usize) }
        };
        let cooperative = attributes.iter().any(|it| it.id == ATTRIBUTE_COOPERATIVE && it.value[0] != 0);
        let shared_bytes = config.shared_bytes as usize;
        let shape = Shape { grid: config.grid, block: config.block, shared_bytes, cooperative };
        submit(kernel, shape, config.stream, arguments, extra)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<'_, c_int>, kernel: usize, threads: c_int, shared: usize) {
        put(blocks, occupancy(kernel, threads, shared)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<'_, c_int>,
        kernel: usize,
        threads: c_int,
        shared: usize,
        _flags: c_uint,
    ) {
        put(blocks, occupancy(kernel, threads, shared)?)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<'_, usize>, kernel: usize, blocks: c_int, _threads: c_int) {
        let kernel = KERNELS.get(kernel).ok_or(Status::INVALID_HANDLE)?;
        let model = config().model;
        let share = model.shared_sm_bytes / usize::try_from(blocks).unwrap_or(1).max(1);
        let available = share.min(model.shared_optin_bytes + SHARED_RESERVED_BYTES);
        put(bytes, available.saturating_sub(kernel.program.shared_bytes + SHARED_RESERVED_BYTES))
    }
}

fn occupancy(kernel: usize, threads: c_int, shared: usize) -> Outcome<c_int> {
    let kernel = KERNELS.get(kernel).ok_or(Status::INVALID_HANDLE)?;
    let threads = u32::try_from(threads).map_err(|_| Status::INVALID_VALUE)?;
    Ok(config().model.blocks_held(threads, kernel.program.shared_bytes + shared) as c_int)
}

fn load(image: *const c_void) -> Result<usize, (Status, String)> {
    let plain = |status: Status| (status, String::new());
    capture::allow_unsafe_call().map_err(plain)?;
    let context = current().map_err(plain)?;
    if image.is_null() {
        return Err(plain(Status::INVALID_VALUE));
    }
    // SAFETY: an image has at least four bytes, whatever it is.
    let head = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 4) };
    // A cubin, a fat binary, and the two wrappers of one.
    if head == b"\x7fELF" || head == 0x466243b1u32.to_le_bytes() || head == 0xba55ed50u32.to_le_bytes() {
        complain(&"the stand-in runs PTX, and this image is machine code");
        return Err((Status::INVALID_IMAGE, "the image is machine code".to_owned()));
    }
    // SAFETY: an image that is no machine code is text that ends with zero.
    let source = unsafe { CStr::from_ptr(image.cast()) }.to_str().map_err(|_| plain(Status::INVALID_PTX))?;
    module::load(context, source).map_err(|error| {
        complain(&error.log);
        (error.status, error.log)
    })
}

fn submit(kernel: usize, shape: Shape, stream: usize, arguments: Arguments, extra: Arguments) -> Outcome {
    let kernel: Arc<Kernel> = KERNELS.get(kernel).ok_or(Status::INVALID_HANDLE)?;
    let stream = stream::of_handle(stream)?;
    let params = if extra.is_null() { gather(&kernel, arguments)? } else { unpack(&kernel, extra)? };
    launch::submit(&stream, kernel, shape, params)
}

/// The kernel's parameter block from a pointer to each argument, copied now.
fn gather(kernel: &Kernel, arguments: Arguments) -> Outcome<Vec<u8>> {
    let params = &kernel.program.params;
    if arguments.is_null() && !params.is_empty() {
        return Err(Status::INVALID_VALUE);
    }
    let mut block = vec![0; params.last().map_or(0, |last| last.offset + last.bytes)];
    for (nth, param) in params.iter().enumerate() {
        // SAFETY: the caller gives a pointer for each parameter of the kernel, to as many bytes as it has.
        let bytes = unsafe { std::slice::from_raw_parts((*arguments.add(nth)).cast::<u8>(), param.bytes) };
        block[param.offset..param.offset + param.bytes].copy_from_slice(bytes);
    }
    Ok(block)
}

/// The kernel's parameter block as the caller has laid it out.
fn unpack(kernel: &Kernel, extra: Arguments) -> Outcome<Vec<u8>> {
    let (mut buffer, mut bytes) = (std::ptr::null::<u8>(), 0);
    for nth in (0..).step_by(2) {
        // SAFETY: the caller gives pairs of a key and a value, up to a key that is zero.
        let key = unsafe { *extra.add(nth) } as usize;
        if key == 0 {
            break;
        }
        // SAFETY: a key that is not zero has a value behind it.
        let value = unsafe { *extra.add(nth + 1) };
        match key {
            PARAM_BUFFER => buffer = value.cast(),
            // SAFETY: the value of this key is a pointer to the size.
            PARAM_BUFFER_BYTES => bytes = unsafe { *value.cast::<usize>() },
            _ => return Err(Status::INVALID_VALUE),
        }
    }
    let expected = kernel.program.params.last().map_or(0, |last| last.offset + last.bytes);
    if buffer.is_null() || bytes < expected {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the caller gives a buffer of that many bytes.
    Ok(unsafe { std::slice::from_raw_parts(buffer, bytes) }.to_vec())
}
