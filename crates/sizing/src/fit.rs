//! How large KV cache and steps can be in given memory.

use crate::nodes::{Site, reserve_bytes};
use crate::{Backend, RankBytes, Ranks, WeightFormat};
use model::FalconConfig;
use step::BLOCK_TOKENS;

/// The most tokens that `--kv-tokens` takes.
pub const KV_TOKENS_MAX: u64 = 1 << 30;
/// Steps get this part of what weights and their own least leave: the KV cache has the rest.
const STEP_SHARE: u64 = 8;
/// Rows of a step, where nobody says how many: with fewer, products lose speed.
const STEP_ROWS_LEAST: usize = 512;
/// Tokens in the KV cache on CPUs, where nobody says how many: memory is other programs', too.
const CPU_KV_TOKENS: u64 = 1 << 14;
/// Degrees of tensor parallelism that are tried where fewer ranks do not fit.
const WORLD_MAX: usize = 64;

/// What is asked for; as much as memory allows, and as is of use, where nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `--kv-tokens`.
    pub kv_tokens: Option<u32>,
    /// `--max-batch-tokens`.
    pub step_rows: Option<u32>,
    /// Tokens beyond which a KV cache is of no use: those of all requests that may be under way.
    pub kv_tokens_useful: u64,
}

/// The most requests that run or wait at once, where nobody says how many.
pub const CONCURRENT_REQUESTS_MAX: u32 = 1024;

impl Asked {
    /// For up to `requests` requests at once of a model.
    #[must_use]
    pub fn new(config: &FalconConfig, kv_tokens: Option<u32>, step_rows: Option<u32>, requests: Option<u32>) -> Self {
        let requests = u64::from(requests.unwrap_or(CONCURRENT_REQUESTS_MAX));
        Self { kv_tokens, step_rows, kv_tokens_useful: requests * config.max_positions as u64 }
    }
}

/// What ranks make room for, all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Blocks of the KV cache.
    pub kv_blocks: u32,
    /// The most rows of a step.
    pub step_rows: u32,
    /// What the fullest rank takes.
    pub bytes: RankBytes,
    /// What each rank has.
    pub memory_bytes: u64,
    /// What of that is kept for others than the rank.
    pub reserve_bytes: u64,
}

/// A rank has less memory than it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rank has {} GB of memory and needs {} GB: {} of weights, {} of KV cache ({kv_tokens} tokens), {} of activations \
     (steps of up to {step_rows} tokens), {} of scratch, {} in reserve; {advice}",
    gb(*.memory_bytes), gb(.bytes.total() + .reserve_bytes), gb(.bytes.weights), gb(.bytes.kv_cache),
    gb(.bytes.activations), gb(.bytes.scratch), gb(*.reserve_bytes)
)]
pub struct DoesNotFit {
    /// Tokens of the KV cache that were asked for, or of one sequence.
    pub kv_tokens: u64,
    /// Rows of a step that were asked for, or the least.
    pub step_rows: u32,
    /// What the fullest rank takes then.
    pub bytes: RankBytes,
    /// What each rank has.
    pub memory_bytes: u64,
    /// What of that is kept for others than the rank.
    pub reserve_bytes: u64,
    /// What would fit.
    pub advice: Advice,
}

/// What would fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// A KV cache of at most this many tokens.
    KvTokens(u64),
    /// Steps of at most this many rows, beside the KV cache.
    StepRows(u32),
    /// At least this many ranks, on such devices.
    MoreRanks(usize),
    /// Nothing, on this machine.
    Nothing,
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::KvTokens(tokens) => write!(f, "--kv-tokens up to {tokens} would fit"),
            Self::StepRows(rows) => write!(f, "--max-batch-tokens up to {rows} would fit"),
            Self::MoreRanks(ranks) => write!(f, "--tensor-parallel {ranks} or more would fit, on as many such GPUs"),
            Self::Nothing => write!(f, "the model needs a machine with more memory"),
        }
    }
}

fn gb(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e9)
}

/// Chooses how large KV cache and steps of `world` ranks are on a site: as asked, or as memory allows.
///
/// # Errors
///
/// [`DoesNotFit`]: what is asked for is more than there is, or not even one sequence of the longest length fits.
pub fn fit(config: &FalconConfig, world: usize, site: &dyn Site, asked: &Asked) -> Result<Fit, DoesNotFit> {
    let footprint = site.footprint(world);
    let ranks = Ranks::new(config, world, WeightFormat::default(), &*footprint);
    let search = Search::new(config, &ranks, site, world, asked);
    match search.choose() {
        Some(fit) => Ok(fit),
        None => Err(search.refuse(|| least_world(config, world, site, asked))),
    }
}

/// The least number of ranks beyond `world` that fit, where each has a device of its own.
fn least_world(config: &FalconConfig, world: usize, site: &dyn Site, asked: &Asked) -> Option<usize> {
    if site.backend() == Backend::Cpu {
        return None;
    }
    let fits = |more: &usize| {
        let footprint = site.footprint(*more);
        let ranks = Ranks::new(config, *more, WeightFormat::default(), &*footprint);
        Search::new(config, &ranks, site, *more, asked).choose().is_some()
    };
    (world + 1..=WORLD_MAX).find(fits)
}

/// The sizes among which one is chosen.
struct Search<'a> {
    ranks: &'a Ranks<'a>,
    /// Blocks that are asked for.
    blocks: Option<usize>,
    /// Rows that are asked for.
    rows: Option<usize>,
    /// The most blocks that are of use.
    blocks_most: usize,
    /// Blocks of one sequence.
    sequence: usize,
    rows_most: usize,
    memory_bytes: u64,
    reserve_bytes: u64,
}

impl<'a> Search<'a> {
    fn new(config: &FalconConfig, ranks: &'a Ranks<'a>, site: &dyn Site, world: usize, asked: &Asked) -> Self {
        let blocks = |tokens: u64| tokens.div_ceil(BLOCK_TOKENS as u64) as usize;
        let tokens_most = match site.backend() {
            Backend::Cuda => KV_TOKENS_MAX,
            Backend::Cpu => CPU_KV_TOKENS,
        };
        let blocks_most = blocks(asked.kv_tokens_useful.min(tokens_most)).max(1);
        Self {
            ranks,
            blocks: asked.kv_tokens.map(|tokens| blocks(tokens.into())),
            rows: asked.step_rows.map(|rows| rows as usize),
            blocks_most,
            sequence: blocks(config.max_positions as u64).min(blocks_most),
            rows_most: ranks.step_rows_max().min(site.backend().step_rows_most()),
            memory_bytes: site.memory_bytes(world),
            reserve_bytes: reserve_bytes(site, world),
        }
    }

    fn room(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.reserve_bytes)
    }

    fn total(&self, blocks: usize, rows: usize) -> u64 {
        self.ranks.fullest(blocks, rows).total()
    }

    fn choose(&self) -> Option<Fit> {
        let rows = self.step_rows()?;
        let blocks = match self.blocks {
            Some(blocks) => (self.total(blocks, rows) <= self.room()).then_some(blocks)?,
            None => {
                let most = largest(1, self.blocks_most, |blocks| self.total(blocks, rows) <= self.room())?;
                (most >= self.sequence).then_some(most)?
            }
        };
        // A step has no more rows than the KV cache has tokens.
        let rows = self.rows.unwrap_or(rows.min((blocks * BLOCK_TOKENS).max(STEP_ROWS_LEAST)));
        Some(Fit {
            kv_blocks: blocks as u32,
            step_rows: rows as u32,
            bytes: self.ranks.fullest(blocks, rows),
            memory_bytes: self.memory_bytes,
            reserve_bytes: self.reserve_bytes,
        })
    }

    /// Rows of a step: as asked, or as many as fit into its share, or fewer where not even the least of these fit.
    fn step_rows(&self) -> Option<usize> {
        if self.rows.is_some() {
            return self.rows;
        }
        let blocks = self.blocks.unwrap_or(self.sequence);
        let one = self.total(blocks, 1);
        let share = self.room().saturating_sub(one) / STEP_SHARE;
        largest(STEP_ROWS_LEAST, self.rows_most, |rows| self.total(blocks, rows) - one <= share)
            .or_else(|| largest(1, STEP_ROWS_LEAST, |rows| self.total(blocks, rows) <= self.room()))
    }

    fn refuse(&self, more_ranks: impl FnOnce() -> Option<usize>) -> DoesNotFit {
        let rows = self.rows.unwrap_or(STEP_ROWS_LEAST);
        let blocks = self.blocks.unwrap_or(self.sequence);
        // Where the cache was given it may be smaller, and no smaller than it must be.
        let advice = self
            .blocks
            .and_then(|blocks| largest(1, blocks, |fewer| self.total(fewer, rows) <= self.room()))
            .map(|blocks| Advice::KvTokens((blocks * BLOCK_TOKENS) as u64))
            .or_else(|| {
                let rows = self.rows?;
                let fewer = largest(1, rows, |rows| self.total(blocks, rows) <= self.room())?;
                Some(Advice::StepRows(fewer as u32))
            })
            .or_else(|| more_ranks().map(Advice::MoreRanks))
            .unwrap_or(Advice::Nothing);
        DoesNotFit {
            kv_tokens: (blocks * BLOCK_TOKENS) as u64,
            step_rows: rows as u32,
            bytes: self.ranks.fullest(blocks, rows),
            memory_bytes: self.memory_bytes,
            reserve_bytes: self.reserve_bytes,
            advice,
        }
    }
}

/// The largest number of a range for which something holds that holds for all smaller ones if it holds for one; `None` if it
/// does not hold for the first.
fn largest(first: usize, last: usize, holds: impl Fn(usize) -> bool) -> Option<usize> {
    if first > last || !holds(first) {
        return None;
    }
    let (mut good, mut bad) = (first, last + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if holds(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

#[cfg(test)]
mod tests;
