//! The block pool.

use crate::seed::Seed;
use scheduler::BlockPool;
use step::BlockId;

const OPERATIONS: usize = 100_000;
const BLOCKS_MAX: u32 = 96;

/// A promise as its holder sees it.
struct Promise {
    taken: Vec<BlockId>,
    still_promised: usize,
}

/// The pool, and all promises that it has granted.
struct Model {
    total: usize,
    pool: BlockPool,
    promises: Vec<Promise>,
}

impl Model {
    fn available(&self) -> usize {
        let spoken_for = self.promises.iter().map(|promise| promise.taken.len() + promise.still_promised);
        self.total - spoken_for.sum::<usize>()
    }

    fn operate(&mut self, rng: &mut fastrand::Rng) {
        let any = if self.promises.is_empty() { None } else { Some(rng.usize(0..self.promises.len())) };
        match (rng.u8(0..8), any) {
            (0, Some(index)) => {
                let promise = self.promises.swap_remove(index);
                self.pool.give_back(promise.taken, promise.still_promised);
            }
            (1..6, Some(index)) if self.promises[index].still_promised > 0 => {
                self.promises[index].still_promised -= 1;
                self.promises[index].taken.push(self.pool.take_promised());
            }
            _ => {
                let count = rng.usize(0..20);
                let fits = count <= self.available();
                assert_eq!(self.pool.promise(count), fits, "{count} blocks");
                if fits {
                    self.promises.push(Promise { taken: Vec::new(), still_promised: count });
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.pool.total(), self.total);
        assert_eq!(self.pool.available(), self.available());
        let taken = self.promises.iter().flat_map(|promise| &promise.taken);
        let mut owned = vec![false; self.total];
        for block in taken.chain(self.pool.free()) {
            let owned = &mut owned[block.0 as usize];
            assert!(!*owned, "block {block} has two owners");
            *owned = true;
        }
        assert!(owned.iter().all(|&owned| owned), "a block is lost");
    }
}

#[test]
fn a_block_is_free_or_has_one_owner() {
    for seed in Seed::cases(1) {
        let mut rng = seed.rng();
        let total = rng.u32(1..=BLOCKS_MAX);
        let mut model = Model { total: total as usize, pool: BlockPool::new(total), promises: Vec::new() };
        model.check();
        for _ in 0..OPERATIONS {
            model.operate(&mut rng);
            model.check();
        }
    }
}

#[test]
fn the_lowest_blocks_go_first() {
    let mut pool = BlockPool::new(3);
    assert!(pool.promise(3));
    assert_eq!([(); 3].map(|()| pool.take_promised()), [BlockId(0), BlockId(1), BlockId(2)]);
}

#[test]
#[should_panic(expected = "a block is taken only under a promise")]
fn nothing_is_taken_without_a_promise() {
    BlockPool::new(1).take_promised();
}

#[test]
#[should_panic(expected = "only what was promised is given back")]
fn a_promise_is_not_given_back_twice() {
    let mut pool = BlockPool::new(1);
    assert!(pool.promise(1));
    pool.give_back([], 1);
    pool.give_back([], 1);
}

#[test]
#[should_panic(expected = "a block was given back twice")]
fn a_block_is_not_given_back_twice() {
    let mut pool = BlockPool::new(1);
    pool.give_back([BlockId(0)], 0);
}
