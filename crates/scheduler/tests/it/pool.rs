//! The block pool.

use crate::seed::Seed;
use scheduler::{BlockContent, BlockPool, PrefixId};
use std::collections::HashMap;
use step::{BLOCK_TOKENS, BlockId};

const OPERATIONS: usize = 100_000;
const BLOCKS_MAX: u32 = 48;

/// A sequence as a pool sees it: blocks of which the first `known` are published, and what is still reserved for it.
#[derive(Default)]
struct Holder {
    blocks: Vec<BlockId>,
    known: usize,
    prefix: PrefixId,
    reserve: usize,
    /// Another holds what it would publish next.
    private: bool,
}

/// The pool, and all who hold blocks of it.
struct Model {
    pool: BlockPool,
    holders: Vec<Holder>,
    /// The prefixes that the pool has named: what each consists of. No name may come twice.
    named: HashMap<PrefixId, BlockContent>,
}

/// One of few contents behind a prefix, so that there are many hits.
fn content(behind: PrefixId, rng: &mut fastrand::Rng) -> BlockContent {
    BlockContent { behind, tokens: [rng.u32(..3); BLOCK_TOKENS] }
}

impl Model {
    fn new(total: u32) -> Self {
        Self { pool: BlockPool::new(total), holders: Vec::new(), named: HashMap::new() }
    }

    fn operate(&mut self, rng: &mut fastrand::Rng) {
        let some = (!self.holders.is_empty()).then(|| rng.usize(..self.holders.len()));
        match (rng.u8(..8), some) {
            (0, Some(index)) => {
                let holder = self.holders.swap_remove(index);
                self.pool.release(holder.blocks, holder.reserve);
            }
            (1..4, Some(index)) if self.holders[index].reserve > 0 => {
                let holder = &mut self.holders[index];
                holder.reserve -= 1;
                holder.blocks.push(self.pool.take_reserved());
            }
            (4..7, Some(index)) => self.publish(index, rng),
            _ => self.admit(rng),
        }
    }

    /// A new holder takes the hits that it finds on a random path, and is reserved some blocks more.
    fn admit(&mut self, rng: &mut fastrand::Rng) {
        let mut holder = Holder { reserve: rng.usize(0..6), ..Holder::default() };
        while let Some((block, prefix)) = self.pool.find(&content(holder.prefix, rng)) {
            holder.blocks.push(block);
            holder.prefix = prefix;
        }
        holder.known = holder.blocks.len();
        let idle = holder.blocks.iter().filter(|&&block| self.pool.is_unused(block)).count();
        let available = self.pool.available();
        if holder.reserve + idle > available {
            assert!(!self.pool.reserve(available + 1), "what is not there is not reserved");
            return;
        }
        holder.blocks.iter().for_each(|&block| self.pool.share(block));
        assert!(self.pool.reserve(holder.reserve));
        assert_eq!(self.pool.available(), available - idle - holder.reserve);
        self.holders.push(holder);
    }

    fn publish(&mut self, index: usize, rng: &mut fastrand::Rng) {
        let holder = &mut self.holders[index];
        let Some(&block) = holder.blocks.get(holder.known).filter(|_| !holder.private) else { return };
        let content = content(holder.prefix, rng);
        match self.pool.publish(block, content) {
            Some(prefix) => {
                let known = self.named.insert(prefix, content);
                assert!(known.is_none_or(|known| known == content), "a name is used twice");
                assert_eq!(self.pool.find(&content), Some((block, prefix)));
                (holder.known, holder.prefix) = (holder.known + 1, prefix);
            }
            None => {
                let (other, _) = self.pool.find(&content).expect("another holds it");
                assert!(other != block && !self.pool.is_unused(other));
                holder.private = true;
            }
        }
    }

    fn check(&self) {
        let mut users = vec![0; self.pool.total()];
        let blocks = self.holders.iter().flat_map(|holder| &holder.blocks);
        blocks.for_each(|block| users[block.0 as usize] += 1);
        let reserved: usize = self.holders.iter().map(|holder| holder.reserve).sum();
        self.pool.check(&users, reserved);
        let unused = users.iter().filter(|&&users| users == 0).count();
        assert_eq!(self.pool.available(), unused - reserved);
        for holder in &self.holders {
            let private = &holder.blocks[holder.known..];
            assert!(private.iter().all(|&block| users[block.0 as usize] == 1 && !self.pool.is_known(block)));
        }
    }
}

#[test]
fn a_block_is_free_or_idle_or_used_whatever_happens() {
    for seed in Seed::cases(1) {
        let mut rng = seed.rng();
        let mut model = Model::new(rng.u32(1..=BLOCKS_MAX));
        model.check();
        for _ in 0..OPERATIONS {
            model.operate(&mut rng);
            model.check();
        }
    }
}

/// A block that holds `token`, behind a prefix.
fn filled(behind: PrefixId, token: u32) -> BlockContent {
    BlockContent { behind, tokens: [token; BLOCK_TOKENS] }
}

#[test]
fn the_lowest_blocks_go_first() {
    let mut pool = BlockPool::new(3);
    assert!(pool.reserve(3));
    assert_eq!([(); 3].map(|()| pool.take_reserved()), [BlockId(0), BlockId(1), BlockId(2)]);
}

#[test]
fn idle_blocks_go_when_no_free_one_is_left_the_least_recently_used_first() {
    let mut pool = BlockPool::new(4);
    assert!(pool.reserve(3));
    let blocks = [(); 3].map(|()| pool.take_reserved());
    let first = pool.publish(blocks[0], filled(PrefixId::EMPTY, 1)).expect("nobody else has it");
    pool.publish(blocks[1], filled(first, 2)).expect("nobody else has it");
    pool.publish(blocks[2], filled(PrefixId::EMPTY, 3)).expect("nobody else has it");
    pool.release([blocks[0], blocks[1]], 0);
    pool.release([blocks[2]], 0);
    // It is used again, and so becomes the most recently used.
    pool.share(blocks[0]);
    pool.release([blocks[0]], 0);
    assert!(pool.reserve(4));
    let order = [BlockId(3), blocks[1], blocks[2], blocks[0]];
    assert_eq!([(); 4].map(|()| pool.take_reserved()), order);
    assert_eq!(pool.known(), 0);
}

#[test]
fn a_block_in_use_takes_the_place_of_an_idle_one_with_the_same_content() {
    let mut pool = BlockPool::new(2);
    assert!(pool.reserve(2));
    let (one, two) = (pool.take_reserved(), pool.take_reserved());
    let prefix = pool.publish(one, filled(PrefixId::EMPTY, 1)).expect("nobody else has it");
    pool.release([one], 0);
    assert_eq!(pool.publish(two, filled(PrefixId::EMPTY, 1)), Some(prefix));
    assert_eq!(pool.find(&filled(PrefixId::EMPTY, 1)), Some((two, prefix)));
    assert!(pool.reserve(1));
    assert_eq!(pool.take_reserved(), one, "it is free");
    assert_eq!(pool.publish(one, filled(PrefixId::EMPTY, 1)), None, "the other is in use");
    pool.check(&[1, 1], 0);
}

#[test]
#[should_panic(expected = "a block is taken only under a reservation")]
fn nothing_is_taken_without_a_reservation() {
    BlockPool::new(1).take_reserved();
}

#[test]
#[should_panic(expected = "only what was reserved is released")]
fn a_reservation_is_not_released_twice() {
    let mut pool = BlockPool::new(1);
    assert!(pool.reserve(1));
    pool.release([], 1);
    pool.release([], 1);
}

#[test]
#[should_panic(expected = "a block is released as often as it was taken")]
fn a_block_is_not_released_twice() {
    let mut pool = BlockPool::new(1);
    pool.release([BlockId(0)], 0);
}

#[test]
#[should_panic(expected = "an idle block is shared only if it is available")]
fn an_idle_block_is_not_shared_when_it_is_reserved_for_another() {
    let mut pool = BlockPool::new(1);
    assert!(pool.reserve(1));
    let block = pool.take_reserved();
    pool.publish(block, filled(PrefixId::EMPTY, 1)).expect("nobody else has it");
    pool.release([block], 0);
    assert!(pool.reserve(1));
    pool.share(block);
}
