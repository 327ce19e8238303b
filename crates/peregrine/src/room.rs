//! Memory: what a model's ranks need, and what there is, before anything is read.

use crate::units::gb;
use anyhow::{Result, ensure};
use backend::{Alone, Backend, Reference};
use backend_cpu::Cpu;
use backend_cuda::{Cuda, discover};
use forward::row_bytes;
use model::{FalconConfig, Partition};
use step::BLOCK_TOKENS;
use sysinfo::System;

/// Bytes that the fullest of some ranks needs.
#[derive(Clone, Copy, Debug)]
pub struct RankBytes {
    weights: u64,
    kv_cache: u64,
    /// For each row of a step, at most.
    row: u64,
}

/// Steps get this part of what weights and KV cache leave: the system, and what devices need besides, have the rest.
const STEP_SHARE: u64 = 8;
/// Rows of a step, where nobody says how many: with fewer, products lose speed.
const ROWS_LEAST: u64 = 512;
/// With more, none gains any, and who waits for a token waits longer. A whole prompt fits.
const ROWS_MOST: u64 = 2048;
const ROWS_MOST_OF_GPUS: u64 = 1 << 14;

impl RankBytes {
    /// Of `world` ranks on a backend.
    pub fn new(backend: &str, config: &FalconConfig, world: usize, kv_blocks: u32) -> Self {
        match backend {
            "cuda" => Self::on::<Cuda>(config, world, kv_blocks),
            "reference" => Self::on::<Reference<Alone>>(config, world, kv_blocks),
            _ => Self::on::<Cpu<Alone>>(config, world, kv_blocks),
        }
    }

    fn on<B: Backend>(config: &FalconConfig, world: usize, kv_blocks: u32) -> Self {
        let parts: Vec<Partition> = (0..world).map(|rank| Partition::new(config, rank, world)).collect();
        let most = |bytes: &dyn Fn(&Partition) -> u64| parts.iter().map(bytes).max().unwrap_or(0);
        let kv_elements = |part: &Partition| {
            let elements = part.kv_bytes_per_token(config, 1) / config.head_dim * B::head_width(config.head_dim);
            (elements * B::KV_ELEMENT_BYTES * BLOCK_TOKENS) as u64
        };
        Self {
            weights: most(&|part| part.weight_bytes(config, size_of::<u16>())),
            kv_cache: most(&kv_elements) * u64::from(kv_blocks),
            row: most(&|part| row_bytes::<B>(config, part) as u64),
        }
    }

    /// Weights and KV cache; what else a rank needs comes on top.
    pub fn lasting(self) -> u64 {
        self.weights + self.kv_cache
    }

    /// How many rows a step can have, up to `most`, where each rank has so many bytes and the KV cache so many tokens.
    fn step_rows(self, rank_bytes: u64, kv_tokens: u32, most: u64) -> u32 {
        let room = rank_bytes.saturating_sub(self.lasting()) / STEP_SHARE;
        let rows = (room / self.row.max(1)).min(most).min(kv_tokens.into());
        rows.max(ROWS_LEAST) as u32
    }
}

/// The most rows of a step: as many as there is room for, in which no more tokens than the KV cache holds can be.
///
/// # Errors
///
/// The ranks' lasting memory is more than the GPUs have, or their weights are more than the system has.
pub fn step_rows(backend: &str, config: &FalconConfig, world: usize, kv_blocks: u32) -> Result<u32> {
    let needed = RankBytes::new(backend, config, world, kv_blocks);
    let (rank_bytes, most) = if backend == "cuda" {
        let gpus = discover()?;
        gpus.check_room(world, needed.lasting())?;
        (gpus.for_ranks(world)?.iter().map(|gpu| gpu.memory_bytes).min().unwrap_or(0), ROWS_MOST_OF_GPUS)
    } else {
        let (available, weights) = (available_bytes(), config.parameters() * size_of::<u16>() as u64);
        let (has, takes) = (gb(available), gb(weights));
        // A KV cache takes memory as it fills; weights take it now.
        ensure!(weights <= available, "the model's weights take {takes} GB, and {has} GB of memory are available");
        (available / world as u64, ROWS_MOST)
    };
    Ok(needed.step_rows(rank_bytes, kv_blocks * BLOCK_TOKENS as u32, most))
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

    #[test]
    fn steps_are_as_large_as_memory_allows() {
        let needed = RankBytes { weights: 1000, kv_cache: 500, row: 2 };
        for (rank_bytes, kv_tokens, rows) in [
            // An eighth of what is left, in rows of two bytes.
            (1500 + 16 * 1000, 1 << 20, 1000),
            (1500 + 16 * 1000, 800, 800),
            (u64::MAX, 1 << 20, 2048),
            (0, 1 << 20, ROWS_LEAST as u32),
        ] {
            assert_eq!(
                needed.step_rows(rank_bytes, kv_tokens, ROWS_MOST),
                rows,
                "{rank_bytes} bytes, {kv_tokens} tokens"
            );
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_bytes() > 1 << 20);
    }
}
