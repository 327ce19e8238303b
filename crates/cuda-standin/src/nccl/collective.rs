//! What a collective does, in slots of the shared memory.

use super::comm::Comm;
use super::shared::SLOT_BYTES;
use super::{Failure, Outcome};
use crate::config::config;
use crate::driver::complain;
use crate::driver::status::Status;
use crate::driver::{memory, stream};
use half::{bf16, f16};
use std::sync::Arc;
use std::time::Duration;

/// `ncclDataType_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ty {
    Bytes(usize),
    I32,
    F16,
    F32,
    F64,
    Bf16,
}

impl Ty {
    pub fn of(code: u32) -> Outcome<Self> {
        Ok(match code {
            0 | 1 => Self::Bytes(1),
            2 | 3 => Self::I32,
            4 | 5 => Self::Bytes(8),
            6 => Self::F16,
            7 => Self::F32,
            8 => Self::F64,
            9 => Self::Bf16,
            _ => return Err(Failure::INVALID_ARGUMENT),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// `ncclRedOp_t`, as far as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduce {
    Sum,
    Max,
    Min,
}

impl Reduce {
    pub fn of(code: u32) -> Outcome<Self> {
        Ok(match code {
            0 => Self::Sum,
            2 => Self::Max,
            3 => Self::Min,
            _ => return Err(Failure::INVALID_ARGUMENT),
        })
    }
}

/// Which collective.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    AllReduce(Reduce),
    AllGather,
    Broadcast { root: usize },
}

/// A collective as it is called.
pub struct Call {
    pub comm: Arc<Comm>,
    pub what: What,
    pub from: u64,
    pub to: u64,
    /// Elements of a rank.
    pub count: usize,
    pub ty: Ty,
    pub stream: usize,
}

impl Call {
    /// Submits it to its stream.
    pub fn submit(self) -> Outcome {
        if self.comm.error() != 0 {
            return Err(Failure(self.comm.error()));
        }
        let bytes = self.count * self.ty.bytes();
        let received = if self.what == What::AllGather { bytes * self.comm.ranks } else { bytes };
        for (address, bytes) in [(self.from, bytes), (self.to, received)] {
            memory::check(address, bytes).map_err(|_| Failure::INVALID_ARGUMENT)?;
        }
        let stream = stream::of_handle(self.stream).map_err(|_| Failure::UNHANDLED_CUDA)?;
        if stream.context.device != self.comm.device {
            return Err(Failure::INVALID_USAGE);
        }
        stream.submit_fn(move || self.run()).map_err(|_| Failure::UNHANDLED_CUDA)
    }

    /// Runs in its turn of the stream. A failure is the communicator's, and the stream goes on; on a device, what the
    /// collective should have written is undefined then.
    fn run(&self) -> Result<(), Status> {
        let comm = &self.comm;
        let number = comm.collectives.next();
        if config().strikes(config().hang, comm.rank, number) {
            complain(&format!("rank {}: collective {number} hangs", comm.rank));
            while comm.error() == 0 && comm.wait("an abort", || false).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if comm.error() == 0 {
            let moved = self.move_all(number);
            debug_assert!(moved.is_ok() || comm.error() != 0);
        }
        Ok(())
    }

    fn move_all(&self, number: u64) -> Outcome {
        let (comm, total) = (&self.comm, self.count * self.ty.bytes());
        let what = format!("{:?} {number} of {total} bytes", self.what);
        for at in (0..total).step_by(SLOT_BYTES) {
            let bytes = SLOT_BYTES.min(total - at);
            if !matches!(self.what, What::Broadcast { root } if root != comm.rank) {
                let from = self.from + at as u64;
                // SAFETY: the source was found in an allocation when the collective was called; nobody but this rank
                // writes its slot, and the others read it between the two barriers.
                unsafe { memory::copy(comm.shared.slot(comm.rank) as u64, from, bytes) };
            }
            comm.barrier(&what)?;
            self.receive(at, bytes, total);
            comm.barrier(&what)?;
        }
        Ok(())
    }

    fn receive(&self, at: usize, bytes: usize, total: usize) {
        let (comm, to) = (&self.comm, self.to + at as u64);
        let slots: Vec<&[u8]> = (0..comm.ranks)
            // SAFETY: a slot has that many bytes, and no rank writes its own between the two barriers.
            .map(|rank| unsafe { std::slice::from_raw_parts(comm.shared.slot(rank).cast_const(), bytes) })
            .collect();
        let put = |to: u64, bytes: &[u8]| {
            // SAFETY: the destination was found in an allocation when the collective was called.
            unsafe { memory::copy(to, bytes.as_ptr() as u64, bytes.len()) };
        };
        match self.what {
            What::AllReduce(op) => put(to, &reduce(self.ty, op, &slots)),
            What::AllGather => {
                slots.iter().enumerate().for_each(|(rank, slot)| put(to + (rank * total) as u64, slot));
            }
            What::Broadcast { root } => put(to, slots[root]),
        }
    }
}

/// The elements of all slots, reduced in the order of ranks.
fn reduce(ty: Ty, op: Reduce, slots: &[&[u8]]) -> Vec<u8> {
    match ty {
        Ty::F32 => reduce_as(op, slots, f32::from_le_bytes, f32::to_le_bytes),
        Ty::Bf16 => reduce_as(op, slots, |b| bf16::from_le_bytes(b).to_f32(), |v| bf16::from_f32(v).to_le_bytes()),
        Ty::F16 => reduce_as(op, slots, |b| f16::from_le_bytes(b).to_f32(), |v| f16::from_f32(v).to_le_bytes()),
        Ty::F64 => reduce_as(op, slots, f64::from_le_bytes, f64::to_le_bytes),
        Ty::I32 => reduce_as(op, slots, |b| f64::from(i32::from_le_bytes(b)), |v: f64| (v as i64 as i32).to_le_bytes()),
        Ty::Bytes(_) => slots[0].to_vec(),
    }
}

fn reduce_as<const N: usize, V: Copy + PartialOrd + std::ops::Add<Output = V>>(
    op: Reduce,
    slots: &[&[u8]],
    value: impl Fn([u8; N]) -> V,
    bytes: impl Fn(V) -> [u8; N],
) -> Vec<u8> {
    let element = |slot: &[u8], nth: usize| value(slot[N * nth..N * nth + N].try_into().expect("N bytes"));
    let mut out = Vec::with_capacity(slots[0].len());
    for nth in 0..slots[0].len() / N {
        let mut sum = element(slots[0], nth);
        for slot in &slots[1..] {
            let next = element(slot, nth);
            sum = match op {
                Reduce::Sum => sum + next,
                Reduce::Max => {
                    if next > sum {
                        next
                    } else {
                        sum
                    }
                }
                Reduce::Min => {
                    if next < sum {
                        next
                    } else {
                        sum
                    }
                }
            };
        }
        out.extend_from_slice(&bytes(sum));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_rounded_once() {
        let slots: Vec<Vec<u8>> = [256.0, 1.0, 1.0].iter().map(|v| bf16::from_f32(*v).to_le_bytes().to_vec()).collect();
        let slots: Vec<&[u8]> = slots.iter().map(Vec::as_slice).collect();
        assert_eq!(reduce(Ty::Bf16, Reduce::Sum, &slots), bf16::from_f32(258.0).to_le_bytes());
        assert_eq!(reduce(Ty::Bf16, Reduce::Max, &slots), bf16::from_f32(256.0).to_le_bytes());
        assert_eq!(reduce(Ty::Bf16, Reduce::Min, &slots), bf16::from_f32(1.0).to_le_bytes());
    }
}
