//! The blocks of the paged KV cache, and which of them hold a known prefix.

use std::collections::HashMap;
use step::{BLOCK_TOKENS, BlockId};

/// Names what a full block holds together with all that comes before it. Never used again for anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrefixId(u64);

impl PrefixId {
    /// Nothing: what comes before the first block.
    pub const EMPTY: Self = Self(0);
}

/// What a full block holds: these tokens, behind that prefix. Prefixes are compared, not only hashed, so two that differ are
/// never taken for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockContent {
    /// All that comes before it.
    pub behind: PrefixId,
    /// Its tokens.
    pub tokens: [u32; BLOCK_TOKENS],
}

/// Hands out KV blocks against reservations, and shares full ones. Every block that a sequence can ever need is reserved
/// before it is admitted, so taking a reserved block cannot fail.
///
/// A block is free, or has users, or is idle: it has none, but its content is known, and it is kept until its room is
/// needed. Of the idle ones the least recently used goes first.
///
/// **Invariant:** whoever uses a block with known content uses those before it, too. So what comes before a known block is
/// known, and an idle block goes before the one that it follows.
#[derive(Debug)]
pub struct BlockPool {
    slots: Vec<Slot>,
    /// Neither used nor known.
    free: Vec<BlockId>,
    /// Blocks whose content is known.
    known: HashMap<BlockContent, BlockId>,
    idle: Idle,
    /// Blocks reserved but not taken yet; never more than are free or idle.
    reserved: usize,
    last_prefix: PrefixId,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    users: u32,
    known: Option<(PrefixId, BlockContent)>,
    /// Its neighbours among the idle ones.
    older: Option<BlockId>,
    newer: Option<BlockId>,
}

/// The ends of the list of idle blocks.
#[derive(Debug, Default)]
struct Idle {
    len: usize,
    oldest: Option<BlockId>,
    newest: Option<BlockId>,
}

impl BlockPool {
    /// A pool of `total` free blocks, numbered from 0.
    #[must_use]
    pub fn new(total: u32) -> Self {
        Self {
            slots: vec![Slot::default(); total as usize],
            // Taken from the end, so the lowest numbers go first.
            free: (0..total).rev().map(BlockId).collect(),
            known: HashMap::new(),
            idle: Idle::default(),
            reserved: 0,
            last_prefix: PrefixId::EMPTY,
        }
    }

    /// Forgets everything: all blocks are free. Prefixes keep their names to themselves, so that none from before is taken for a new one.
    pub fn clear(&mut self) {
        *self = Self { last_prefix: self.last_prefix, ..Self::new(self.slots.len() as u32) };
    }

    /// Blocks in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// Blocks that are neither used nor reserved.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len - self.reserved
    }

    /// Blocks whose content is known, used or not.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Promises `count` blocks if so many are available.
    #[must_use]
    pub fn reserve(&mut self, count: usize) -> bool {
        let granted = count <= self.available();
        if granted {
            self.reserved += count;
        }
        granted
    }

    /// Takes one block of a reservation; the content of an idle one is forgotten if none is free.
    ///
    /// # Panics
    ///
    /// If nothing is reserved.
    pub fn take_reserved(&mut self) -> BlockId {
        self.reserved = self.reserved.checked_sub(1).expect("a block is taken only under a reservation");
        let block = self.free.pop().unwrap_or_else(|| self.forget_oldest());
        self.slots[block.0 as usize].users = 1;
        block
    }

    /// Ends one use of each of these blocks, which follow each other in a sequence, and takes back the `unused` rest of
    /// the reservation for it.
    ///
    /// # Panics
    ///
    /// If more is released than was reserved or taken.
    pub fn release(&mut self, blocks: impl IntoIterator<Item = BlockId, IntoIter: DoubleEndedIterator>, unused: usize) {
        self.reserved = self.reserved.checked_sub(unused).expect("only what was reserved is released");
        // The last first: an idle block must go before the one that it follows.
        for block in blocks.into_iter().rev() {
            let slot = &mut self.slots[block.0 as usize];
            slot.users = slot.users.checked_sub(1).expect("a block is released as often as it was taken");
            match (slot.users, &slot.known) {
                (0, None) => self.free.push(block),
                (0, Some(_)) => self.append_idle(block),
                _ => {}
            }
        }
    }

    /// The block with this content, and the name of the prefix that ends with it.
    #[must_use]
    pub fn find(&self, content: &BlockContent) -> Option<(BlockId, PrefixId)> {
        let block = *self.known.get(content)?;
        let (prefix, _) = self.slots[block.0 as usize].known.as_ref().expect("a known block knows its content");
        Some((block, *prefix))
    }

    /// The block still holds that prefix.
    #[must_use]
    pub fn holds(&self, block: BlockId, prefix: PrefixId) -> bool {
        self.slots[block.0 as usize].known.is_some_and(|(of_block, _)| of_block == prefix)
    }

    /// The block's content is known.
    #[must_use]
    pub fn is_known(&self, block: BlockId) -> bool {
        self.slots[block.0 as usize].known.is_some()
    }

    /// Nobody uses the block.
    #[must_use]
    pub fn is_unused(&self, block: BlockId) -> bool {
        self.slots[block.0 as usize].users == 0
    }

    /// Adds a user to a known block. It needs no reservation, but an idle one is not [available](Self::available) any more.
    ///
    /// # Panics
    ///
    /// If its content is not known, or if it is idle and reserved away.
    pub fn share(&mut self, block: BlockId) {
        let slot = &mut self.slots[block.0 as usize];
        assert!(slot.known.is_some(), "only a known block is shared");
        slot.users += 1;
        if slot.users == 1 {
            self.remove_idle(block);
            assert!(
                self.reserved <= self.free.len() + self.idle.len,
                "an idle block is shared only if it is available"
            );
        }
    }

    /// Makes the content of a block known, which has been computed and of which the caller is the only user. Gives the name
    /// of the prefix that ends with it; `None` if another block has the same content and is used: then this one stays
    /// private.
    ///
    /// # Panics
    ///
    /// If the block is unused, or known already.
    pub fn publish(&mut self, block: BlockId, content: BlockContent) -> Option<PrefixId> {
        let slot = &self.slots[block.0 as usize];
        assert!(slot.users == 1 && slot.known.is_none(), "a block is published once, by its user");
        let prefix = match self.find(&content) {
            Some((other, _)) if !self.is_unused(other) => return None,
            // The one that is used takes the place of the one that is not.
            Some((other, prefix)) => {
                self.remove_idle(other);
                self.slots[other.0 as usize].known = None;
                self.free.push(other);
                prefix
            }
            None => {
                self.last_prefix.0 += 1;
                self.last_prefix
            }
        };
        self.known.insert(content, block);
        self.slots[block.0 as usize].known = Some((prefix, content));
        Some(prefix)
    }

    /// Checks every invariant; `users` says how often each block is used, and `reserved` how many are reserved.
    ///
    /// # Panics
    ///
    /// If one does not hold.
    pub fn check(&self, users: &[u32], reserved: usize) {
        assert_eq!(self.reserved, reserved, "reservations do not add up");
        assert!(reserved <= self.free.len() + self.idle.len, "more is reserved than there is");
        let mut seen = vec![false; self.slots.len()];
        for &block in &self.free {
            assert!(!std::mem::replace(&mut seen[block.0 as usize], true), "block {block} is free twice");
            assert!(self.slots[block.0 as usize].known.is_none(), "block {block} is free and known");
        }
        let names: HashMap<PrefixId, BlockId> =
            self.known.iter().map(|(content, &block)| (self.find(content).expect("it is known").1, block)).collect();
        assert_eq!(names.len(), self.known.len(), "two blocks hold one prefix");
        let (mut len, mut next, mut newer) = (0, self.idle.newest, None);
        while let Some(block) = next {
            let slot = &self.slots[block.0 as usize];
            assert_eq!(slot.newer, newer, "block {block}: the list of idle blocks is broken");
            assert!(!std::mem::replace(&mut seen[block.0 as usize], true), "block {block} is idle, and more");
            let (_, content) = slot.known.as_ref().expect("an idle block is known");
            let before = names.get(&content.behind).map(|before| before.0 as usize);
            assert!(
                before.is_none_or(|before| seen[before] || users[before] > 0),
                "block {block} outlives what it follows"
            );
            (len, next, newer) = (len + 1, slot.older, Some(block));
        }
        assert_eq!((len, self.idle.oldest), (self.idle.len, newer), "the list of idle blocks is broken");
        for (index, (slot, &users)) in self.slots.iter().zip(users).enumerate() {
            assert_eq!(slot.users, users, "block {index}: users do not add up");
            assert!(seen[index] != (users > 0), "block {index} is lost, or used while it is not");
            let Some((_, content)) = &slot.known else { continue };
            assert_eq!(self.known.get(content), Some(&BlockId(index as u32)), "block {index} holds what it should not");
            let before = names.get(&content.behind);
            assert_eq!(before.is_none(), content.behind == PrefixId::EMPTY, "block {index} follows nothing");
            let used = before.is_none_or(|before| users == 0 || !self.is_unused(*before));
            assert!(used, "block {index} is used without what it follows");
        }
    }

    /// Forgets the content of the least recently used idle block, which is free then.
    fn forget_oldest(&mut self) -> BlockId {
        let block = self.idle.oldest.expect("reserved blocks are free or idle");
        self.remove_idle(block);
        let (_, content) = self.slots[block.0 as usize].known.take().expect("an idle block is known");
        self.known.remove(&content);
        block
    }

    fn append_idle(&mut self, block: BlockId) {
        let older = self.idle.newest.replace(block);
        match older {
            Some(older) => self.slots[older.0 as usize].newer = Some(block),
            None => self.idle.oldest = Some(block),
        }
        let slot = &mut self.slots[block.0 as usize];
        (slot.older, slot.newer) = (older, None);
        self.idle.len += 1;
    }

    fn remove_idle(&mut self, block: BlockId) {
        let slot = &mut self.slots[block.0 as usize];
        let (older, newer) = (slot.older.take(), slot.newer.take());
        match older {
            Some(older) => self.slots[older.0 as usize].newer = newer,
            None => self.idle.oldest = newer,
        }
        match newer {
            Some(newer) => self.slots[newer.0 as usize].older = older,
            None => self.idle.newest = older,
        }
        self.idle.len -= 1;
    }
}
