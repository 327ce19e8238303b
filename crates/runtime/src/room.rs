//! Memory: what a model's ranks need, and what there is, before anything is read.

use crate::RoomError;
use backend::{Alone, Backend, Reference};
use backend_cpu::Cpu;
use backend_cuda::{Cuda, DiscoverError, Gpus, discover};
use forward::row_bytes;
use model::{FalconConfig, Partition};
use node::gpu_reserve_bytes;
use step::BLOCK_TOKENS;
use sysinfo::System;

/// Bytes that the fullest of some ranks needs.
#[derive(Clone, Copy, Debug)]
struct RankBytes {
    /// Weights, and rows of logits: those of a rank, whole ones, their scores, and counts of tokens.
    fixed: u64,
    /// For each block of the KV cache.
    kv_block: u64,
    /// For each row of a step, at most.
    row: u64,
}

/// How much is asked for; as much as memory allows where nobody says.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Tokens in the KV cache.
    pub kv_tokens: Option<u32>,
    /// Rows of a step.
    pub step_rows: Option<u32>,
    /// Tokens beyond which no KV cache is of use.
    pub kv_tokens_most: u64,
}

/// What the ranks make room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Blocks of the KV cache.
    pub kv_blocks: u32,
    /// Rows of a step, in which no more tokens than the KV cache holds can be.
    pub step_rows: u32,
}

/// Steps get this part of what weights and logits leave: the KV cache has the rest.
const STEP_SHARE: u64 = 8;
/// Rows of a step, where nobody says how many: with fewer, products lose speed.
const ROWS_LEAST: u64 = 512;
/// With more, none gains any, and who waits for a token waits longer. A whole prompt fits.
const ROWS_MOST: u64 = 2048;
const ROWS_MOST_OF_GPUS: u64 = 1 << 14;
/// Tokens in the KV cache on processors, where nobody says how many. Memory is other programs', too.
const KV_TOKENS_OF_PROCESSORS: u32 = 1 << 14;
/// The most tokens that `--kv-tokens` takes.
const KV_TOKENS_MOST: u64 = 1 << 30;

impl RankBytes {
    /// Of `world` ranks on a backend.
    fn new(backend: &str, config: &FalconConfig, world: usize) -> Self {
        match backend {
            "cuda" => Self::on::<Cuda>(config, world),
            "reference" => Self::on::<Reference<Alone>>(config, world),
            _ => Self::on::<Cpu<Alone>>(config, world),
        }
    }

    fn on<B: Backend>(config: &FalconConfig, world: usize) -> Self {
        let parts: Vec<Partition> = (0..world).map(|rank| Partition::new(config, rank, world)).collect();
        let most = |bytes: &dyn Fn(&Partition) -> u64| parts.iter().map(bytes).max().unwrap_or(0);
        let kv_elements = |part: &Partition| {
            let elements = part.kv_bytes_per_token(config, 1) / config.head_dim * B::head_width(config.head_dim);
            (elements * B::KV_ELEMENT_BYTES * BLOCK_TOKENS) as u64
        };
        let logits = 4 * B::LOGITS_ROWS_MAX * config.vocab * size_of::<f32>();
        Self {
            fixed: most(&|part| part.weight_bytes(config, size_of::<u16>())) + logits as u64,
            kv_block: most(&kv_elements),
            row: most(&|part| row_bytes::<B>(config, part) as u64),
        }
    }

    /// Rows of a step, up to `most`, for which there is room in `bytes`.
    fn step_rows(self, bytes: u64, most: u64) -> u64 {
        (bytes / STEP_SHARE / self.row.max(1)).clamp(ROWS_LEAST, most)
    }

    /// Fills `bytes`, which are there for weights, KV cache and steps.
    fn fill(self, bytes: u64, wanted: &Wanted) -> Room {
        let beside_fixed = bytes.saturating_sub(self.fixed);
        let given = wanted.kv_tokens.map(|tokens| u64::from(tokens).div_ceil(BLOCK_TOKENS as u64));
        let beside_kv = beside_fixed.saturating_sub(given.unwrap_or(0) * self.kv_block);
        let rows = wanted.step_rows.map_or_else(|| self.step_rows(beside_kv, ROWS_MOST_OF_GPUS), u64::from);
        let room = beside_fixed.saturating_sub(rows * self.row) / self.kv_block.max(1);
        let most = wanted.kv_tokens_most.min(KV_TOKENS_MOST).div_ceil(BLOCK_TOKENS as u64);
        let kv_blocks = given.unwrap_or_else(|| room.min(most)) as u32;
        Room { kv_blocks, step_rows: wanted.step_rows.unwrap_or_else(|| rows_within(rows, kv_blocks)) }
    }
}

/// No more rows than the KV cache has tokens.
fn rows_within(rows: u64, kv_blocks: u32) -> u32 {
    rows.min(u64::from(kv_blocks) * BLOCK_TOKENS as u64).max(ROWS_LEAST) as u32
}

/// What `world` ranks on this machine make room for.
///
/// # Errors
///
/// Weights and KV cache are more than the GPUs have, or the weights are more than the system has.
pub fn find_room(backend: &str, config: &FalconConfig, world: usize, wanted: &Wanted) -> Result<Room, RoomError> {
    if backend == "cuda" {
        return Ok(room_of_gpus(&discover()?, config, world, wanted)?.0);
    }
    let needed = RankBytes::new(backend, config, world);
    let (available, weights) = (available_bytes(), config.parameters() * size_of::<u16>() as u64);
    // A KV cache takes memory as it fills; weights take it now.
    if weights > available {
        return Err(RoomError::Host { weights, available });
    }
    let kv_tokens = wanted.kv_tokens.unwrap_or(KV_TOKENS_OF_PROCESSORS);
    let kv_blocks = kv_tokens.div_ceil(BLOCK_TOKENS as u32);
    let left = (available / world as u64).saturating_sub(needed.fixed + u64::from(kv_blocks) * needed.kv_block);
    let rows = || rows_within(needed.step_rows(left, ROWS_MOST), kv_blocks);
    Ok(Room { kv_blocks, step_rows: wanted.step_rows.unwrap_or_else(rows) })
}

/// As [`find_room`], of these GPUs; and bytes of weights, logits and KV cache of the fullest.
///
/// # Errors
///
/// As [`find_room`].
pub fn room_of_gpus(
    gpus: &Gpus,
    config: &FalconConfig,
    world: usize,
    wanted: &Wanted,
) -> Result<(Room, u64), DiscoverError> {
    let needed = RankBytes::new("cuda", config, world);
    let memory = gpus.for_ranks(world)?.iter().map(|gpu| gpu.memory_bytes).min().unwrap_or(0);
    let reserve = gpu_reserve_bytes(memory, world);
    let room = needed.fill(memory.saturating_sub(reserve), wanted);
    let lasting = |blocks: u32| needed.fixed + u64::from(blocks) * needed.kv_block;
    gpus.check_room(
        world,
        match wanted.kv_tokens {
            Some(_) => lasting(room.kv_blocks),
            // One sequence at least is to fit, beside all else.
            None => {
                let sequence = lasting(config.max_positions.div_ceil(BLOCK_TOKENS) as u32);
                sequence + u64::from(room.step_rows) * needed.row + reserve
            }
        },
    )?;
    Ok((room, lasting(room.kv_blocks)))
}

/// Memory that this process may still take, with that of others and of its group that can be had back.
fn available_bytes() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    system.available_memory().min(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: RankBytes = RankBytes { fixed: 1000, kv_block: 160, row: 2 };

    fn fill(bytes: u64, kv_tokens: Option<u32>, step_rows: Option<u32>) -> (u32, u32) {
        let room = NEEDED.fill(bytes, &Wanted { kv_tokens, step_rows, kv_tokens_most: 1 << 20 });
        (room.kv_blocks, room.step_rows)
    }

    #[test]
    fn steps_and_cache_are_as_large_as_memory_allows() {
        // An eighth of what weights and a given cache leave, in rows of two bytes.
        assert_eq!(fill(1000 + 160 * 1000 + 16 * 1000, Some(16_000), None), (1000, 1000));
        // Given: neither is changed.
        assert_eq!(fill(0, Some(800), Some(3)), (50, 3));
        // Not given: steps an eighth, the cache what they leave.
        assert_eq!(fill(1000 + 16_000, None, None), (14_000 / 160, 1000));
        assert_eq!(fill(1000 + 16_000, None, Some(10)), ((16_000 - 20) / 160, 10));
        // Never more than is of use, and no more rows than the cache has tokens.
        assert_eq!(fill(1 << 40, None, None), ((1 << 20) / 16, ROWS_MOST_OF_GPUS as u32));
        assert_eq!(fill(1 << 40, Some(800), None), (50, 800));
        assert_eq!(fill(0, None, None), (0, ROWS_LEAST as u32));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_bytes() > 1 << 20);
    }
}
