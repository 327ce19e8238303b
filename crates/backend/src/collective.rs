//! Sums and gathers between the ranks of one model, over host memory.

use std::sync::Arc;

/// Makes a rank leave the others, from any thread: its operation under way fails, and so does each that follows.
pub type Leaver = Arc<dyn Fn() + Send + Sync>;

/// One rank's end of the connection between all ranks. All ranks must call the same operations in the same order with
/// the same lengths. A rank that meets an error, or that is dropped, has left: from then on the others' operations fail
/// instead of waiting for it.
pub trait Collective: Send {
    /// This rank.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world(&self) -> usize;

    /// The processes on which operations depend, as far as they are known, this one included: those of the ranks that have
    /// come to an operation, and of whoever connected them. While one of them is stopped, no limit of a wait runs.
    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    /// The way out, for whoever does not own this end. `None` where nobody who has left can rejoin.
    fn leaver(&self) -> Option<Leaver> {
        None
    }

    /// Takes the rank's place anew, once all ranks have left or are gone, and the connection has been made new. Until
    /// [`Collective::settle`], operations wait for as long as it takes: others may load meanwhile, and somebody watches them.
    ///
    /// # Panics
    ///
    /// Where there is no [`Collective::leaver`].
    fn rejoin(&mut self) {
        unreachable!("nobody leaves this")
    }

    /// From now on, operations have their time limit again.
    fn settle(&mut self) {}

    /// `x = Σ x` over all ranks, summed in rank order, so that every rank has the same bits.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`], when another rank is gone, late or does something else.
    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError>;

    /// `all` = the ranks' `mine` one behind the other, in rank order; rank `r` gives `counts[r]` elements.
    ///
    /// # Errors
    ///
    /// As [`Collective::all_reduce`].
    fn all_gather(&mut self, mine: &[f32], counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError>;
}

/// How ranks meet: what they tell each other before they compute.
pub trait Bootstrap {
    /// What each rank says, in rank order. All say equally many bytes, a multiple of 4.
    ///
    /// # Errors
    ///
    /// As [`Collective::all_reduce`].
    fn all_gather_bytes(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;
}

impl<C: Collective + ?Sized> Bootstrap for C {
    fn all_gather_bytes(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        // The bits of numbers with which nobody computes.
        let mine: Vec<f32> = bytemuck::pod_collect_to_vec(mine);
        let mut all = vec![0.0f32; mine.len() * self.world()];
        self.all_gather(&mine, &vec![mine.len(); self.world()], &mut all)?;
        Ok(all.chunks(mine.len().max(1)).map(|of_rank| bytemuck::cast_slice(of_rank).to_vec()).collect())
    }
}

/// The only rank of a world of one: nothing to wait for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleRank;

impl Collective for SingleRank {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _x: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], _counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError> {
        all.copy_from_slice(mine);
        Ok(())
    }
}

impl<C: Collective + ?Sized> Collective for Box<C> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world(&self) -> usize {
        (**self).world()
    }

    fn processes(&self) -> Vec<u32> {
        (**self).processes()
    }

    fn leaver(&self) -> Option<Leaver> {
        (**self).leaver()
    }

    fn rejoin(&mut self) {
        (**self).rejoin();
    }

    fn settle(&mut self) {
        (**self).settle();
    }

    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        (**self).all_reduce(x)
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError> {
        (**self).all_gather(mine, counts, all)
    }
}

/// Why a collective operation did not end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum CollectiveError {
    /// A rank did not arrive in time.
    #[error("{operation} number {sequence}: rank {missing} did not arrive within {limit_ms} ms")]
    Timeout {
        rank: usize,
        operation: &'static str,
        /// The count of this rank's collective operations.
        sequence: u64,
        missing: usize,
        /// For how long it was waited, in milliseconds.
        limit_ms: u64,
    },
    /// Another rank gave up.
    #[error("{operation} number {sequence}: rank {by} left the collective")]
    Aborted {
        rank: usize,
        operation: &'static str,
        /// The count of this rank's collective operations.
        sequence: u64,
        by: usize,
    },
    /// Another rank does something else: the ranks' programs differ.
    #[error(
        "{operation} number {sequence} of {length} elements: rank {other} does {other_operation} of {other_length}"
    )]
    Mismatch {
        rank: usize,
        operation: &'static str,
        /// The count of this rank's collective operations.
        sequence: u64,
        /// How many elements all ranks' results have.
        length: usize,
        other: usize,
        other_operation: &'static str,
        other_length: usize,
    },
    /// The shared memory could not be had.
    #[error("shared memory: {message}")]
    Setup { rank: usize, message: String },
}
