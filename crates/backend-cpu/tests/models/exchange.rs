//! The protocol over shared memory, each rank on a thread.

use crate::explore;
use crate::shm_exchange::{Control, Exchange, Memory, SLOTS};
use crate::sync::{AtomicU32, AtomicU64, Futex};
use backend::CollectiveError;
use loom::cell::UnsafeCell;
use loom::thread;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Elements of a slot.
const LEN: usize = 3;

struct Cells {
    controls: Vec<Control>,
    /// Every element of every slot by itself, which loom watches.
    slots: Vec<UnsafeCell<f32>>,
}

// SAFETY: loom fails the model where two threads use an element at the same time.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

struct SharedCells(Arc<Cells>);

impl SharedCells {
    fn element(&self, rank: usize, slot: usize, index: usize) -> &UnsafeCell<f32> {
        &self.0.slots[(rank * SLOTS + slot) * LEN + index]
    }
}

impl Memory for SharedCells {
    const SLOT_LEN: usize = LEN;
    const SHARED_OUT_FROM: usize = LEN;

    fn control(&self, rank: usize) -> &Control {
        &self.0.controls[rank]
    }

    unsafe fn read<R>(&self, rank: usize, slot: usize, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R {
        // SAFETY: the caller keeps writers away, or loom fails the model.
        let get = |index| self.element(rank, slot, index).with(|element| unsafe { *element });
        read(&range.map(get).collect::<Vec<f32>>())
    }

    unsafe fn write(&self, rank: usize, slot: usize, range: Range<usize>, write: impl FnOnce(&mut [f32])) {
        let mut values = vec![0.0; range.len()];
        write(&mut values);
        for (index, value) in range.zip(values) {
            // SAFETY: the caller keeps all others away, or loom fails the model.
            self.element(rank, slot, index).with_mut(|element| unsafe { *element = value });
        }
    }
}

/// Runs each rank on a thread of its own; `times_out`: sleeps end by themselves.
fn ranks(world: usize, times_out: bool, run: fn(usize, Exchange<SharedCells>)) {
    let control = |_| Control {
        tick: Futex::new(times_out),
        sleepers: AtomicU32::new(0),
        left: AtomicU32::new(0),
        pid: AtomicU32::new(0),
        doing: std::array::from_fn(|_| (AtomicU32::new(0), AtomicU64::new(0))),
    };
    let slots = (0..world * SLOTS * LEN).map(|_| UnsafeCell::new(f32::NAN)).collect();
    let cells = Arc::new(Cells { controls: (0..=world).map(control).collect(), slots });
    let add = |sum: &mut [f32], term: &[f32]| sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
    let end = |rank| {
        let memory = SharedCells(Arc::clone(&cells));
        Exchange::new(memory, (rank, world), Duration::MAX, 0, Box::new(add))
    };
    let threads: Vec<_> = (1..world)
        .map(|rank| {
            let end = end(rank);
            thread::spawn(move || run(rank, end))
        })
        .collect();
    run(0, end(0));
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// A sum of so many pieces.
fn sum(world: usize, rank: usize, end: &mut Exchange<SharedCells>, len: usize) {
    let mut x: Vec<f32> = (0..len).map(|i| (i * 10 + rank) as f32).collect();
    end.all_reduce(&mut x).expect("all ranks are there");
    let ranks: usize = (0..world).sum();
    let sums: Vec<f32> = (0..len).map(|i| (i * 10 * world + ranks) as f32).collect();
    assert_eq!(x, sums, "rank {rank}");
}

/// More pieces than slots.
#[test]
fn pieces_of_two_ranks() {
    explore(3, || {
        ranks(2, false, |rank, mut end| sum(2, rank, &mut end, 2 * LEN + 1));
    });
}

#[test]
fn a_gather_between_sums_of_two_ranks() {
    explore(3, || {
        ranks(2, false, |rank, mut end| {
            sum(2, rank, &mut end, 1);
            let mut all = [0.0; 3];
            end.all_gather(&[[1.0, 2.0], [3.0, 0.0]][rank][..2 - rank], &[2, 1], &mut all)
                .expect("all ranks are there");
            assert_eq!(all, [1.0, 2.0, 3.0]);
            sum(2, rank, &mut end, 1);
        });
    });
}

/// Each rank sums a share, and then takes those of the others.
#[test]
fn a_sum_shared_out_over_three_ranks() {
    explore(2, || {
        ranks(3, false, |rank, mut end| sum(3, rank, &mut end, LEN));
    });
}

/// What it has done counts; then the others do not wait for it.
#[test]
fn a_rank_that_leaves() {
    explore(3, || {
        ranks(2, true, |rank, mut end| {
            let mut x = [1.0];
            end.all_reduce(&mut x).expect("it has done its part");
            assert_eq!(x, [2.0]);
            if rank == 0 {
                let error = end.all_reduce(&mut x).expect_err("it has left");
                assert!(matches!(error, CollectiveError::Aborted { by: 1, .. }), "{error}");
            }
        });
    });
}
