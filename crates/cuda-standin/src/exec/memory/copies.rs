//! Asynchronous copies: issued, committed in groups, carried out when they are waited for.

use super::access::read_global;
use super::checks::{check_global, check_window, fault, minus};
use crate::exec::address::SHARED_WINDOW;
use crate::exec::launch::{Context, CopyMode};
use crate::exec::warp::Warp;
use crate::exec::{FaultKind, Faulted, lanes_of};
use crate::ptx::program::CopyAsync;

/// Copies that a warp has issued and that have not been carried out.
#[derive(Default)]
pub(in crate::exec) struct PendingCopies {
    copies: Vec<PendingCopy>,
    /// How many groups each lane has committed.
    committed: [u32; 32],
}

struct PendingCopy {
    lane: u8,
    /// The lane's group that it belongs to.
    group: u32,
    copy: Copy16,
}

#[derive(Clone, Copy)]
struct Copy16 {
    /// Offset in shared memory.
    to: usize,
    /// Global address.
    from: u64,
    bytes: usize,
    /// Bytes that are read; the rest are zeros.
    source_bytes: usize,
}

impl PendingCopies {
    pub(in crate::exec) fn clear(&mut self) {
        self.copies.clear();
        self.committed = [0; 32];
    }
}

impl Warp {
    pub(in crate::exec) fn copy_async(
        &mut self,
        cx: &mut Context<'_>,
        pc: usize,
        m: u32,
        it: &CopyAsync,
    ) -> Faulted<()> {
        let (mut to, from) = (self.addresses(&it.shared), self.addresses(&it.global));
        if lanes_of(m).all(|lane| to[lane] >= SHARED_WINDOW) {
            to = minus(&to, SHARED_WINDOW);
        }
        check_window("shared", &to, m, it.bytes, cx.shared.len())?;
        cx.count(|counters| counters.shared(&to, m, it.bytes));
        let sizes = it.source_bytes.map(|row| *self.regs.row(row));
        let source_bytes = |lane: usize| sizes.map_or(it.bytes, |sizes| sizes[lane] as usize);
        let mut reading = 0;
        for lane in lanes_of(m) {
            let size = source_bytes(lane);
            if size > it.bytes {
                return fault(FaultKind::Address, lane, format!("a source of {size} bytes for a copy of {}", it.bytes));
            }
            reading |= u32::from(size > 0) << lane;
        }
        if reading != 0 {
            check_global(cx, pc, &from, reading, it.bytes)?;
            cx.count(|counters| counters.read(&from, reading, it.bytes));
        }
        for lane in lanes_of(m) {
            let copy =
                Copy16 { to: to[lane] as usize, from: from[lane], bytes: it.bytes, source_bytes: source_bytes(lane) };
            if cx.launch.copies == CopyMode::Early {
                copy.carry_out(cx.shared);
            } else {
                let group = self.copies.committed[lane];
                self.copies.copies.push(PendingCopy { lane: lane as u8, group, copy });
            }
        }
        Ok(())
    }

    pub(in crate::exec) fn copy_commit(&mut self, m: u32) {
        for lane in lanes_of(m) {
            self.copies.committed[lane] += 1;
        }
    }

    /// Carries out the copies of all groups of each lane but the last `keep`.
    pub(in crate::exec) fn copy_wait(&mut self, cx: &mut Context<'_>, m: u32, keep: usize) {
        let PendingCopies { copies, committed } = &mut self.copies;
        copies.retain(|pending| {
            let lane = usize::from(pending.lane);
            let due = m >> lane & 1 == 1 && (pending.group as usize) + keep < committed[lane] as usize;
            if due {
                pending.copy.carry_out(cx.shared);
            }
            !due
        });
    }
}

impl Copy16 {
    fn carry_out(&self, shared: &mut [u8]) {
        let to = &mut shared[self.to..self.to + self.bytes];
        if self.source_bytes == 16 {
            for (nth, eight) in to.chunks_exact_mut(8).enumerate() {
                // SAFETY: `check_global` has found all 16 bytes in an allocation, and aligned.
                let value = unsafe { read_global::<8>(self.from + 8 * nth as u64) };
                eight.copy_from_slice(&value.to_le_bytes());
            }
            return;
        }
        let mut words = [0u32; 4];
        for (nth, word) in words.iter_mut().enumerate().take(self.source_bytes.div_ceil(4)) {
            // SAFETY: `check_global` has found all `bytes` bytes in an allocation, and aligned, if any of them are read.
            *word = unsafe { read_global::<4>(self.from + 4 * nth as u64) } as u32;
        }
        for (nth, byte) in to.iter_mut().enumerate() {
            *byte = if nth < self.source_bytes { words[nth / 4].to_le_bytes()[nth % 4] } else { 0 };
        }
    }
}
