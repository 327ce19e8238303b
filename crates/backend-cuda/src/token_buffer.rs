//! The tokens of sequences, on the device: the sampler appends to them, and the next step's embedding reads them there.

use crate::memory::{Arena, Scratch, Staging};
use backend::BackendError;

/// (slots, positions) token ids: the slots of sequences, and behind them some for sequences that have none.
pub(crate) struct TokenBuffer {
    memory: Scratch,
    slots: usize,
    stride: usize,
}

impl TokenBuffer {
    pub(crate) fn new() -> Self {
        Self { memory: Scratch::new("tokens of sequences"), slots: 0, stride: 0 }
    }

    /// Makes room for `slots` sequences of up to `positions` tokens, and for `scratch_slots` more, which belong to no sequence.
    /// What the slots hold is lost where there was less.
    pub(crate) fn reserve(
        &mut self,
        arena: &Arena,
        slots: usize,
        positions: usize,
        scratch_slots: usize,
    ) -> Result<(), BackendError> {
        (self.slots, self.stride) = (self.slots.max(slots), self.stride.max(positions));
        self.memory.at_least(arena, Self::bytes(self.slots + scratch_slots, self.stride)).map(|_| ())
    }

    /// Bytes of `slots` slots of `positions` tokens each.
    pub(crate) fn bytes(slots: usize, positions: usize) -> usize {
        slots * positions * size_of::<u32>()
    }

    /// As for kernels.
    pub(crate) fn at(&self) -> u64 {
        self.memory.at()
    }

    /// Positions from one slot to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The slot of a sequence without one.
    pub(crate) fn scratch_slot(&self, index: usize) -> usize {
        self.slots + index
    }

    /// The address of a token.
    pub(crate) fn token(&self, slot: usize, position: usize) -> u64 {
        assert!(position <= self.stride, "position {position} of {}", self.stride);
        let at = self.at() + ((slot * self.stride + position) * size_of::<u32>()) as u64;
        assert!(at <= self.at() + self.memory.bytes() as u64, "slot {slot} of {}", self.slots);
        at
    }

    /// Tells the device of the tokens from position `start` on.
    pub(crate) fn set(
        &self,
        staging: &mut Staging,
        slot: usize,
        start: usize,
        tokens: &[u32],
    ) -> Result<(), BackendError> {
        if tokens.is_empty() {
            return Ok(());
        }
        let (from, _) = (self.token(slot, start), self.token(slot, start + tokens.len()));
        // SAFETY: all the tokens are within the memory, as both ends are.
        unsafe { staging.send(from, size_of_val(tokens), |to| to.copy_from_slice(bytemuck::cast_slice(tokens))) }
    }
}
