//! What is chosen, and what is advised, on a site of round numbers.

use super::*;
use crate::Reserve;
use backend::{Footprint, RankShapes};

/// A byte a weight; 10 bytes a block; 4 bytes a row.
struct Round;

const WEIGHTS: u64 = 1_000_000;
const BLOCK: u64 = 100;
const ROW: u64 = 40;

impl Footprint for Round {
    fn head_width(&self, head_dim: usize) -> usize {
        head_dim
    }

    fn logits_rows(&self) -> usize {
        1
    }

    fn step_rows_max(&self) -> usize {
        10_000
    }

    fn bytes(&self, shapes: &RankShapes) -> RankBytes {
        RankBytes {
            weights: WEIGHTS / shapes.limits.vocab.len() as u64,
            kv_cache: BLOCK * shapes.kv_blocks as u64,
            activations: ROW * shapes.limits.rows as u64,
            scratch: 0,
        }
    }
}

struct Of {
    backend: Backend,
    memory_bytes: u64,
}

const RESERVE: u64 = 5_000;

impl Site for Of {
    fn backend(&self) -> Backend {
        self.backend
    }

    fn memory_bytes(&self, _: usize) -> u64 {
        self.memory_bytes
    }

    fn reserves(&self, _: usize) -> Vec<Reserve> {
        vec![Reserve { what: "others", bytes: RESERVE }]
    }

    fn footprint(&self, _: usize) -> Box<dyn Footprint> {
        Box::new(Round)
    }
}

fn config() -> FalconConfig {
    // 2,048 positions: 128 blocks.
    crate::Published::find("huggingface-llm-falcon-7b-bf16").expect("it is published").config()
}

fn found(
    backend: Backend,
    beside_weights: u64,
    kv_tokens: Option<u32>,
    step_rows: Option<u32>,
) -> Result<(u32, u32), DoesNotFit> {
    let site = Of { backend, memory_bytes: WEIGHTS + RESERVE + beside_weights };
    let asked = Asked { kv_tokens, step_rows, kv_tokens_useful: 1 << 20 };
    fit(&config(), 1, &site, &asked).map(|fit| (fit.kv_blocks, fit.step_rows))
}

fn gpu(beside_weights: u64, kv_tokens: Option<u32>, step_rows: Option<u32>) -> Result<(u32, u32), DoesNotFit> {
    found(Backend::Cuda, beside_weights, kv_tokens, step_rows)
}

#[test]
fn steps_and_cache_are_as_large_as_memory_allows() {
    // An eighth of what weights, a given cache and one row leave, in rows beside the first.
    assert_eq!(gpu(BLOCK * 1000 + ROW + 8 * ROW * 1000, Some(16_000), None), Ok((1000, 1001)));
    // Given: neither is changed.
    assert_eq!(gpu(1 << 20, Some(800), Some(3)), Ok((50, 3)));
    // Not given: steps an eighth beside one sequence, the cache what they leave.
    let most = 128 * BLOCK + ROW + 8 * ROW * 1000;
    assert_eq!(gpu(most, None, None), Ok((((most - 1001 * ROW) / BLOCK) as u32, 1001)));
    assert_eq!(gpu(most, None, Some(10)), Ok((((most - 10 * ROW) / BLOCK) as u32, 10)));
    // Never more than is of use, than the backend can, and no more rows than the cache has tokens.
    assert_eq!(gpu(1 << 40, None, None), Ok(((1 << 20) / 16, 10_000)));
    assert_eq!(gpu(1 << 40, Some(800), None), Ok((50, 800)));
    // On CPUs, memory is other programs', too.
    assert_eq!(found(Backend::Cpu, 1 << 40, None, None), Ok((1024, 2048)));
}

#[test]
fn where_memory_is_short_steps_are_the_first_to_give() {
    let beside = 128 * BLOCK + 100 * ROW;
    assert_eq!(gpu(beside, None, None), Ok((128, 100)));
    assert_eq!(gpu(128 * BLOCK + ROW, None, None), Ok((128, 1)));
    assert!(gpu(128 * BLOCK, None, None).is_err());
}

#[test]
fn what_was_asked_for_and_does_not_fit_is_refused_with_what_would() {
    let error = gpu(1000 * BLOCK + 512 * ROW, Some(17_000), Some(512)).unwrap_err();
    assert_eq!(error.advice, Advice::KvTokens(16_000));
    assert!(gpu(1000 * BLOCK + 512 * ROW, Some(16_000), Some(512)).is_ok(), "as advised");
    let text = error.to_string();
    for part in ["needs 0.00 GB", "17008 tokens", "up to 512 tokens", "--kv-tokens up to 16000 would fit"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // All counts: one byte less and the cache is a block smaller.
    let error = gpu(1000 * BLOCK + 512 * ROW - 1, Some(16_000), Some(512)).unwrap_err();
    assert_eq!(error.advice, Advice::KvTokens(15_984));
    // Not the cache, but steps.
    let error = gpu(128 * BLOCK + 70 * ROW, None, Some(4000)).unwrap_err();
    assert_eq!(error.advice, Advice::StepRows(70));
    // More ranks have smaller weights; on CPUs they share one memory.
    let site = |backend| Of { backend, memory_bytes: WEIGHTS / 3 + RESERVE + 128 * BLOCK + 512 * ROW };
    let asked = Asked { kv_tokens: None, step_rows: None, kv_tokens_useful: 1 << 20 };
    let advice = |backend| fit(&config(), 1, &site(backend), &asked).unwrap_err().advice;
    assert_eq!((advice(Backend::Cuda), advice(Backend::Cpu)), (Advice::MoreRanks(3), Advice::Nothing));
}
