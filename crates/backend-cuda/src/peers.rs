//! Memory that the ranks of a node read from each other's devices: partial sums, logits, and the flags by which they meet.
//!
//! Each rank makes one allocation; the ranks tell each other of it over the host's collective, and map it: through an IPC
//! handle between processes, by peer access within one.

use crate::device::{Device, describe};
use crate::kernels::all_reduce::{self, Add, FLAG_LINE, RANKS_MAX};
use crate::memory::{Chunk, Pinned};
use crate::tensor::PAD;
use backend::{BackendError, Bootstrap, Collective, StepLimits};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timeouts::Stopwatch;

/// Buffers for partial sums: two that layers take in turns, and the embedding's.
const PARTIALS: usize = 3;
/// The embedding's.
const EMBEDDING: usize = 2;

/// The most bytes of partial sums for which the all-reduce is one-shot: each rank reads all of them at once. Beyond, it is
/// two-shot: each rank first adds up a share. With two ranks that saves nothing.
const ONE_SHOT_BYTES_MAX: usize = 256 << 10;

/// The connection, as far as it has been made.
pub(crate) struct PeerMemory {
    device: Rc<Device>,
    /// The least number of multiprocessors of all ranks.
    blocks: usize,
    /// The kernel for sums of any size, if one was asked for.
    shots: Option<Add>,
    region: Option<Region>,
    /// Which buffer of partial sums was used last.
    last: usize,
    flag_reader: FlagReader,
}

/// What it takes to look at this rank's flags, or to raise them, while a kernel waits.
struct FlagReader {
    stream: Arc<CudaStream>,
    /// Room for all of them.
    lines: Pinned,
}

struct Region {
    partial_bytes: usize,
    logits_bytes: usize,
    /// Where each rank's allocation begins, on this device.
    bases: [u64; RANKS_MAX],
    maps: Vec<Map>,
    own: Chunk,
}

/// How a peer's memory is mapped; dropped, it is no longer.
enum Map {
    /// Another thread of this process has it; its context is kept.
    SameProcess(#[allow(dead_code, reason = "kept for as long as its memory is used")] Arc<CudaContext>),
    /// Another process has it.
    Ipc(u64, Rc<Device>),
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Self::Ipc(at, device) = self
            && !device.is_broken()
        {
            // SAFETY: `at` was opened so, and nothing on the stream uses it any more: who drops has waited for it. A
            // failure is reported by the driver's next call.
            let _ = unsafe { sys::cuIpcCloseMemHandle(*at) };
        }
    }
}

/// Bytes of a line of flags.
const FLAG_LINE_BYTES: usize = FLAG_LINE * size_of::<u32>();

/// How far ahead of a line's epoch its flags are raised for a kernel that is to wait for nobody: half of what counts as ahead.
const RAISED: u32 = 1 << 30;

/// How often flags are raised, while other ranks' kernels may still write theirs.
const RAISE_EVERY: Duration = Duration::from_millis(1);

/// How long kernels may take to end that need not wait for others.
const LEAVE_LIMIT: Duration = Duration::from_secs(8);

/// How long a look at the flags may take.
const FLAGS_LIMIT: Duration = Duration::from_secs(1);

impl FlagReader {
    /// Waits for its copies; `None` if that takes too long.
    fn wait(&self) -> Option<()> {
        let mut clock = Stopwatch::start(Instant::now());
        // SAFETY: the stream is alive.
        while unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } != sys::CUresult::CUDA_SUCCESS {
            if clock.elapsed(Instant::now(), || false) > FLAGS_LIMIT {
                return None;
            }
            std::thread::yield_now();
        }
        Some(())
    }

    /// Raises the flags of all lines, which are at `flags`, as if every other rank were far ahead. `None` if the driver does not do it.
    fn raise(&mut self, flags: u64, bytes: usize) -> Option<()> {
        let (at, stream) = (self.lines.at(&(0..bytes)), self.stream.cu_stream());
        // SAFETY: there are `bytes` of flags, and as many in pinned memory, which nobody touches before the copy has been waited for;
        // after a failure the process ends.
        unsafe { sys::cuMemcpyDtoHAsync_v2(at.cast(), flags, bytes, stream) }.result().ok()?;
        self.wait()?;
        // SAFETY: the copy has ended.
        let words: &mut [u32] = bytemuck::cast_slice_mut(unsafe { self.lines.range_mut(0..bytes) });
        words.chunks_exact_mut(FLAG_LINE).for_each(raise);
        // SAFETY: as above.
        unsafe { sys::cuMemcpyHtoDAsync_v2(flags, at.cast(), bytes, stream) }.result().ok()?;
        self.wait()
    }
}

/// Raises the flags of one line. Its epoch may have gone on meanwhile, by as many launches as are on their way; then it is set back by
/// these.
fn raise(line: &mut [u32]) {
    let raised = line[0].wrapping_add(RAISED);
    line[1..=2 * RANKS_MAX].fill(raised);
}

/// Decodes one line of flags (see `peers.h`): the barrier in progress, and the ranks that have not reached it. `None` if this rank
/// has not reached it either.
fn missing(line: &[u32], rank: usize, ranks: usize) -> Option<(u32, Vec<usize>)> {
    let launch = line[0].wrapping_add(1);
    let waits = [&line[1..1 + RANKS_MAX], &line[1 + RANKS_MAX..1 + 2 * RANKS_MAX]];
    let behind = |flag: u32| (flag.wrapping_sub(launch) as i32) < 0;
    let missing = waits.iter().find_map(|flags| {
        let missing: Vec<usize> = (0..ranks).filter(|&rank| behind(flags[rank])).collect();
        (!behind(flags[rank]) && !missing.is_empty()).then_some(missing)
    });
    missing.map(|missing| (launch, missing))
}

/// What a rank tells the others of its allocation, as words that travel as the bits of f32.
const TICKET_WORDS: usize = 20;

impl PeerMemory {
    pub(crate) fn new(device: &Rc<Device>, blocks: usize, shots: Option<Add>) -> Result<Self, BackendError> {
        let stream = device.context.new_stream().map_err(|error| device.fault("making a stream", error))?;
        let flag_reader = FlagReader { stream, lines: Pinned::new(device, flag_bytes(blocks))? };
        Ok(Self { device: Rc::clone(device), blocks, shots, region: None, last: 0, flag_reader })
    }

    /// For whom the kernel at hand waits, if it does: of the flags of its first block.
    pub(crate) fn waits_for(&self, rank: usize, ranks: usize) -> Option<String> {
        let region = self.region.as_ref()?;
        let (to, stream) = (self.flag_reader.lines.at(&(0..FLAG_LINE_BYTES)), self.flag_reader.stream.cu_stream());
        // SAFETY: the flags are the allocation's beginning, and the memory is longer than a line of theirs. It is not read unless
        // the copy has ended, nor given back, as the device is broken then.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), region.own.at(), FLAG_LINE_BYTES, stream) }.result().ok()?;
        self.flag_reader.wait()?;
        // SAFETY: the copy has ended.
        let words: &[u32] = bytemuck::cast_slice(unsafe { self.flag_reader.lines.range(0..FLAG_LINE_BYTES) });
        let (sum, missing) = missing(words, rank, ranks)?;
        let names: Vec<String> = missing.iter().map(usize::to_string).collect();
        let (s, has) = if names.len() == 1 { ("", "has") } else { ("s", "have") };
        Some(format!("rank{s} {} {has} not reached barrier {sum}", names.join(", ")))
    }

    /// The kernel that sums `bytes` of each of `ranks` ranks.
    pub(crate) fn shots(&self, ranks: usize, bytes: usize) -> Add {
        let one = ranks == 2 || bytes <= ONE_SHOT_BYTES_MAX;
        self.shots.unwrap_or(if one { Add::OneShot } else { Add::TwoShot })
    }

    /// Blocks of a launch at most.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Allocates memory for partial sums and logits of at least these sizes. All ranks call it with the same numbers.
    pub(crate) fn reserve(
        &mut self,
        host: &mut dyn Collective,
        partial_bytes: usize,
        logits_bytes: usize,
    ) -> Result<(), BackendError> {
        let (old_partial, old_logits) = self.region.as_ref().map_or((0, 0), |r| (r.partial_bytes, r.logits_bytes));
        if self.region.is_some() && partial_bytes <= old_partial && logits_bytes <= old_logits {
            return Ok(());
        }
        self.close(host)?;
        let (partial_bytes, logits_bytes) =
            (aligned(partial_bytes.max(old_partial)), aligned(logits_bytes.max(old_logits)));
        let total = region_bytes(self.blocks, partial_bytes, logits_bytes);
        let own = Chunk::new(&self.device, "memory for the other ranks", total)?;
        // SAFETY: the flags are the allocation's beginning. They are zeros before any rank hears of them.
        unsafe { self.device.zero(own.at(), self.flag_bytes()) }?;
        self.device.wait("making flags")?;
        let (bases, maps) = self.connect(host, &own)?;
        self.region = Some(Region { partial_bytes, logits_bytes, bases, maps, own });
        Ok(())
    }

    fn flag_bytes(&self) -> usize {
        flag_bytes(self.blocks)
    }

    /// Tells the other ranks of this rank's allocation, and maps theirs.
    fn connect(&self, host: &mut dyn Collective, own: &Chunk) -> Result<([u64; RANKS_MAX], Vec<Map>), BackendError> {
        let rank = host.rank();
        let fault = |error| self.device.fault("telling the other ranks of memory", error);
        let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
        // SAFETY: `own` is a whole allocation of this context.
        unsafe { sys::cuIpcGetMemHandle(&mut handle, own.at()) }.result().map_err(fault)?;
        let mut ticket = [0u32; TICKET_WORDS];
        ticket[0] = std::process::id();
        ticket[1] = self.device.context.ordinal() as u32;
        ticket[2..4].copy_from_slice(&[own.at() as u32, (own.at() >> 32) as u32]);
        let words: [[u8; 4]; 16] = bytemuck::cast(handle.reserved.map(|byte| byte.cast_unsigned()));
        ticket[4..].iter_mut().zip(words).for_each(|(to, word)| *to = u32::from_ne_bytes(word));
        let tickets = host.all_gather_bytes(bytemuck::cast_slice(&ticket))?;
        let mut bases = [0; RANKS_MAX];
        let mut maps = Vec::new();
        for (peer, ticket) in tickets.iter().enumerate() {
            if peer == rank {
                bases[peer] = own.at();
            } else {
                let ticket: Vec<u32> = bytemuck::pod_collect_to_vec(ticket);
                let (base, map) = self.map(&ticket).map_err(|error| {
                    let text = format!("memory of rank {peer}: {}", describe(error));
                    self.device.fault_text("mapping", &text)
                })?;
                bases[peer] = base;
                maps.push(map);
            }
        }
        // No rank uses its flags before all have them.
        host.all_reduce(&mut [0.0])?;
        Ok((bases, maps))
    }

    fn map(&self, ticket: &[u32]) -> Result<(u64, Map), DriverError> {
        if ticket[0] == std::process::id() {
            let ordinal = ticket[1] as usize;
            let context = CudaContext::new(ordinal)?;
            self.device.context.bind_to_thread()?;
            if ordinal != self.device.context.ordinal() {
                // SAFETY: both contexts are alive; the peer's is kept by the map.
                match unsafe { sys::cuCtxEnablePeerAccess(context.cu_ctx(), 0) }.result() {
                    Err(DriverError(sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
            let at = u64::from(ticket[2]) | u64::from(ticket[3]) << 32;
            return Ok((at, Map::SameProcess(context)));
        }
        let words: [u32; 16] = ticket[4..].try_into().expect("a ticket holds a handle");
        let bytes: [u8; 64] = bytemuck::cast(words);
        let handle = sys::CUipcMemHandle { reserved: bytes.map(u8::cast_signed) };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut at = 0;
        // SAFETY: the handle is what the other process was given for its allocation, which it keeps until all ranks have
        // closed it.
        unsafe { sys::cuIpcOpenMemHandle_v2(&mut at, handle, flags) }.result()?;
        Ok((at, Map::Ipc(at, Rc::clone(&self.device))))
    }

    /// Leaves the other ranks, of which some are gone: until the stream has come to rest, kernels find the flags raised for which they
    /// would wait. What they compute then is worth nothing. Ranks that live may still write their flags: so they are raised again.
    pub(crate) fn leave(&mut self) -> Result<(), BackendError> {
        let Some(region) = &mut self.region else { return Ok(()) };
        let (device, operation) = (&self.device, "leaving the other ranks");
        let bytes = flag_bytes(self.blocks);
        let mut clock = Stopwatch::start(Instant::now());
        while !device.is_at_rest(operation)? {
            let raised = self.flag_reader.raise(region.own.at(), bytes);
            if raised.is_none() || clock.elapsed(Instant::now(), || false) > LEAVE_LIMIT {
                return Err(device.fault_text(operation, "kernels do not end"));
            }
            std::thread::sleep(RAISE_EVERY);
        }
        device.rest(operation)?;
        region.maps.clear();
        // Letting go of a context makes it current for a moment.
        device.context.bind_to_thread().map_err(|error| device.fault(operation, error))
    }

    /// Connects with the ranks of another life, by the memory that this one has. All have left the one before.
    pub(crate) fn rejoin(&mut self, host: &mut dyn Collective) -> Result<(), BackendError> {
        let Some(region) = &self.region else { return Ok(()) };
        // SAFETY: the flags are the allocation's beginning, and nobody else has it mapped.
        unsafe { self.device.zero(region.own.at(), self.flag_bytes()) }?;
        self.device.wait("making flags")?;
        let (bases, maps) = self.connect(host, &region.own)?;
        self.region = self.region.take().map(|region| Region { bases, maps, ..region });
        self.last = 0;
        Ok(())
    }

    /// Ends the connection when all ranks have done with it.
    pub(crate) fn close(&mut self, host: &mut dyn Collective) -> Result<(), BackendError> {
        let Some(mut region) = self.region.take() else { return Ok(()) };
        let leave = self.device.wait("leaving the other ranks").and_then(|()| Ok(host.all_reduce(&mut [0.0])?));
        region.maps.clear();
        // Letting go of a context makes it current for a moment.
        self.device.context.bind_to_thread().map_err(|error| self.device.fault("leaving the other ranks", error))?;
        // An allocation is given back after all have closed it.
        let left = leave.and_then(|()| Ok(host.all_reduce(&mut [0.0])?));
        if left.is_err() {
            // Others may still read it: it goes with the process.
            std::mem::forget(region.own);
        }
        left
    }

    /// The buffer that the next sum of a layer reads on this rank.
    pub(crate) fn layer_partial(&self, rank: usize) -> u64 {
        self.partial(self.next_layer_buffer(), rank)
    }

    /// The buffer of the embedding's sum, or of another that is not a layer's.
    pub(crate) fn other_partial(&self, rank: usize) -> u64 {
        self.partial(self.next_other_buffer(), rank)
    }

    // A buffer may be written again when a launch that reads another one is over: so no two in a row are the same. A step's
    // sums, the embedding's and then the layers', have the same ones each time.

    fn next_layer_buffer(&self) -> usize {
        usize::from(self.last == 0)
    }

    fn next_other_buffer(&self) -> usize {
        if self.last == EMBEDDING { 0 } else { EMBEDDING }
    }

    fn region(&self) -> &Region {
        self.region.as_ref().expect("the ranks have met")
    }

    fn partial(&self, buffer: usize, rank: usize) -> u64 {
        let region = self.region();
        region.bases[rank] + (self.flag_bytes() + buffer * region.partial_bytes) as u64
    }

    /// Bytes of a buffer of partial sums.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.partial_bytes)
    }

    /// Where all ranks' partial sums of the next launch are; they are taken.
    pub(crate) fn take_partials(&mut self, ranks: usize, layer: bool) -> [u64; RANKS_MAX] {
        let buffer = if layer { self.next_layer_buffer() } else { self.next_other_buffer() };
        self.last = buffer;
        std::array::from_fn(|rank| if rank < ranks { self.partial(buffer, rank) } else { 0 })
    }

    /// Where all ranks' logits are.
    pub(crate) fn logits(&self, ranks: usize) -> [u64; RANKS_MAX] {
        let region = self.region();
        let offset = self.flag_bytes() + PARTIALS * region.partial_bytes;
        std::array::from_fn(|rank| if rank < ranks { region.bases[rank] + offset as u64 } else { 0 })
    }

    /// The flags, as kernels take them.
    pub(crate) fn flags(&self, rank: usize, ranks: usize) -> all_reduce::Peers {
        all_reduce::Peers { flags: self.region().bases, rank: rank as i32, ranks: ranks as i32 }
    }
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

fn flag_bytes(blocks: usize) -> usize {
    aligned(blocks * FLAG_LINE * size_of::<u32>())
}

/// Bytes of a rank's allocation that its peers read: the flags of `blocks` blocks, partial sums, and logits.
pub(crate) fn region_bytes(blocks: usize, partial_bytes: usize, logits_bytes: usize) -> usize {
    flag_bytes(blocks) + PARTIALS * aligned(partial_bytes) + aligned(logits_bytes)
}

/// Bytes of a buffer of partial sums, and of the logits of the rank that has the most columns.
pub(crate) fn buffer_bytes(limits: &StepLimits) -> (usize, usize) {
    let widest = limits.vocab.iter().copied().max().unwrap_or(0);
    let partial = limits.rows * limits.hidden.next_multiple_of(PAD) * size_of::<f32>();
    (partial, limits.logits_rows * widest * size_of::<f32>())
}

/// Whether `device` can access the memory of another, or is it.
pub(crate) fn can_access(device: &Device, other: usize) -> bool {
    if other == device.context.ordinal() {
        return true;
    }
    let Ok(peer) = result::device::get(other as i32) else { return false };
    let mut can = 0;
    // SAFETY: both are devices of the driver.
    let asked = unsafe { sys::cuDeviceCanAccessPeer(&mut can, device.context.cu_device(), peer) };
    asked == sys::CUresult::CUDA_SUCCESS && can != 0
}

#[cfg(test)]
mod tests {
    use super::{RANKS_MAX, missing, raise};

    #[test]
    fn who_has_not_come_is_read_from_the_flags() {
        // Three ranks; four launches are over.
        let line = |first: [u32; 3], second: [u32; 3]| {
            let mut line = [0; 32];
            line[0] = 4;
            line[1..4].copy_from_slice(&first);
            line[9..12].copy_from_slice(&second);
            line
        };
        assert_eq!(missing(&line([5, 5, 4], [4, 4, 4]), 0, 3), Some((5, vec![2])));
        assert_eq!(missing(&line([5, 5, 6], [5, 4, 5]), 2, 3), Some((5, vec![1])));
        assert_eq!(missing(&line([4, 5, 5], [4, 4, 4]), 0, 3), None);
        assert_eq!(missing(&line([5, 5, 5], [4, 4, 4]), 0, 3), None);
    }

    /// Also where the epoch wraps around, and where launches have begun since it was read.
    #[test]
    fn nobody_waits_for_flags_that_are_raised() {
        for epoch in [0, 7, 1 << 30, (1 << 31) - 1, u32::MAX - 1, u32::MAX] {
            let mut line = [3; 32];
            line[0] = epoch;
            raise(&mut line);
            for launches in [0, 1, 2, 100_000] {
                line[0] = epoch.wrapping_add(launches);
                assert_eq!(missing(&line, 0, RANKS_MAX), None, "epoch {epoch}, {launches} launches later");
            }
            assert_eq!(line[1 + 2 * RANKS_MAX..], [3; 15], "what is no flag");
        }
    }
}
