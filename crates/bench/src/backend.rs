//! The speed of a backend: the forward pass with sampling, on a model of random weights, without coordinator or wire.
//!
//! Ranks are threads of this process, each with a backend of its own, that meet as the ranks of a service do. They run
//! the same steps; what rank 0 takes for them is what counts. The hardware is probed in the same run, before and after.

mod cpu;
mod ranks;
mod steps;

use ::backend::{Backend, BackendError};
pub use cpu::{CpuBenchError, CpuBenchOptions, run};
use forward::StepError;
use model::{FalconConfig, Part, Partition, Role, ShardTensor};
use ranks::Ranks;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Where a rank runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which rank.
    pub rank: usize,
    /// Of how many.
    pub ranks: usize,
    /// Threads of each rank.
    pub threads: usize,
}

/// What is measured.
pub struct Subject<'a, B> {
    /// The model's shape.
    pub config: &'a FalconConfig,
    /// Makes the backend of one rank, on the thread that will own it.
    pub open: &'a (dyn Fn(Place) -> Result<B, BackendError> + Sync),
    /// What the hardware can do.
    pub probes: Probes<'a>,
    /// The instruction set, for the report.
    pub isa: String,
    /// Is told what is under way.
    pub progress: &'a dyn Fn(&str),
}

/// Measure the hardware with some number of threads.
#[derive(Clone, Copy)]
pub struct Probes<'a> {
    /// Bytes that can be read from memory in a second, one figure for each of several passes.
    pub read: &'a dyn Fn(usize) -> Result<Vec<f64>, BackendError>,
    /// Operations (a product and a sum are two) that the matrix unit can do in a second; `None` without one.
    pub matrix: &'a dyn Fn(usize) -> Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The name of the model's shape.
    pub shape: String,
    /// One for each number of ranks and threads.
    pub rows: Vec<Row>,
}

/// What was found for some ranks and threads. Times are medians; a gigabyte is 10⁹ bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Threads of each rank.
    pub threads: usize,
    /// Ranks.
    pub ranks: usize,
    /// The instruction set.
    pub isa: String,
    /// What all the threads together read from memory: gigabytes a second.
    pub read_gbps: f64,
    /// What their matrix units do: 10⁹ operations a second; `None` without such a unit.
    pub amx_peak_gflops: Option<f64>,
    /// Weights that one sequence's decode reads: gigabytes a second.
    pub decode_gbps: f64,
    /// Tokens a second of a prompt of 512 in one step.
    pub prefill_tok_s: f64,
    /// The same in operations of the layers' products, each counted once: 10⁹ a second.
    pub prefill_gflops: f64,
    /// Tokens a second of a prompt of 128 in one step.
    pub prefill_128_tok_s: f64,
    /// Tokens a second of all sequences, by their number.
    pub decode_tok_s: BTreeMap<String, f64>,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum BenchError {
    /// The hardware could not be probed.
    #[error("probing the CPU: {0}")]
    Probe(BackendError),
    /// A rank could not be made, or had no room.
    #[error("rank {rank}: {error}")]
    Backend { rank: usize, error: BackendError },
    /// A step failed.
    #[error("rank {rank}: {error}")]
    Step { rank: usize, error: StepError },
    /// A rank's thread has ended, by a panic.
    #[error("rank {rank} is gone")]
    Gone { rank: usize },
}

/// The prompts that are measured; the first is the longest.
const PROMPTS: [usize; 2] = [512, 128];
const PROMPT_TIMES: usize = 4;
/// How many sequences decode at once.
const BATCHES: [usize; 3] = [1, 8, 16];
const DECODE_STEPS: usize = 20;
const CONTEXT: usize = 32;

/// Measures ranks with some threads each.
///
/// # Errors
///
/// [`BenchError`].
pub fn measure<B: Backend>(subject: &Subject<'_, B>, ranks: usize, threads: usize) -> Result<Row, BenchError> {
    let all_threads = ranks * threads;
    let Subject { config, probes, progress, .. } = subject;
    progress("probing the CPU");
    let mut reads = (probes.read)(all_threads).map_err(BenchError::Probe)?;
    let matrix = (probes.matrix)(all_threads);
    progress("making the model");
    let ((prefill, prefill_128, decode), reads_after) = Ranks::run(subject, ranks, threads, |team| {
        let mut prefill = |prompt: usize| {
            progress(&format!("a prompt of {prompt}"));
            let times = team.all(steps::Work::Prompts { tokens: prompt, times: PROMPT_TIMES })?;
            Ok::<_, BenchError>(prompt as f64 / median_s(&times))
        };
        let prefills = PROMPTS.map(&mut prefill);
        let [long, short] = prefills;
        let (long, short) = (long?, short?);
        let mut decode = BTreeMap::new();
        let mut reads_after = Vec::new();
        for batch in BATCHES {
            progress(&format!("decode of {batch}"));
            let times = team.all(steps::Work::Decode { batch, steps: DECODE_STEPS })?;
            decode.insert(batch.to_string(), batch as f64 / median_s(&times));
            if batch == 1 {
                reads_after = (probes.read)(all_threads).map_err(BenchError::Probe)?;
            }
        }
        Ok(((long, short, decode), reads_after))
    })?;
    reads.extend(reads_after);
    Ok(Row {
        threads,
        ranks,
        isa: subject.isa.clone(),
        read_gbps: median(&mut reads) / 1e9,
        amx_peak_gflops: matrix.map(|matrix| matrix / 1e9),
        decode_gbps: decoded_bytes(config) as f64 * decode["1"] / 1e9,
        prefill_tok_s: prefill,
        prefill_gflops: 2.0 * layer_weights(config) as f64 * prefill / 1e9,
        prefill_128_tok_s: prefill_128,
        decode_tok_s: decode,
    })
}

/// Bytes of bf16 weights that a token reads: all but the rows of the embedding table, where that is not the output
/// projection, too. What more than one rank has counts once.
fn decoded_bytes(config: &FalconConfig) -> usize {
    let read = |tensor: &ShardTensor| tensor.id.role != Role::WordEmbeddings || config.tied;
    2 * elements(config, read)
}

/// Elements of the layers' products: neither table of the vocabulary, of which a prompt needs one row each way.
fn layer_weights(config: &FalconConfig) -> usize {
    elements(config, |tensor| tensor.id.layer.is_some() && tensor.id.part == Part::Weight && tensor.columns_total > 1)
}

fn elements(config: &FalconConfig, counted: impl Fn(&ShardTensor) -> bool) -> usize {
    let shard = model::shard(config, &Partition::new(config, 0, 1));
    shard.iter().filter(|tensor| counted(tensor)).map(ShardTensor::local_elements).sum()
}

fn median_s(times: &[Duration]) -> f64 {
    median(&mut times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>())
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::backend::{Reference, SingleRank};

    const TINY: &str = r#"{"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 50, "multi_query": true, "new_decoder_architecture": false, "parallel_attn": true, "bias": false,
        "alibi": false, "tie_word_embeddings": false}"#;

    #[test]
    fn weights_are_counted_once() {
        let config = FalconConfig::from_json(TINY.as_bytes()).expect("a config");
        let (layer, norm, table) = (32 * (32 + 16) + 32 * 32 + 2 * 4 * 32 * 32, 2 * 32, 50 * 32);
        assert_eq!(layer_weights(&config), 2 * layer);
        assert_eq!(decoded_bytes(&config), 2 * (2 * (layer + norm) + norm + table));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn the_reference_is_measured() {
        let config = FalconConfig::from_json(TINY.as_bytes()).expect("a config");
        let subject = Subject {
            config: &config,
            open: &|_| Ok(Reference::new(SingleRank)),
            probes: Probes { read: &|_| Ok(vec![2e9, 1e9, 3e9]), matrix: &|_| None },
            isa: "plain".to_owned(),
            progress: &|_| {},
        };
        let row = measure(&subject, 1, 1).expect("a row");
        let keys: Vec<&str> = row.decode_tok_s.keys().map(String::as_str).collect();
        assert_eq!(keys, ["1", "16", "8"]);
        assert!(row.decode_tok_s.values().all(|&rate| rate > 0.0) && row.prefill_tok_s > 0.0);
        assert_eq!((row.read_gbps, row.amx_peak_gflops), (2.0, None));
        let json = serde_json::to_value(&row).expect("a row is JSON");
        for key in ["threads", "ranks", "read_gbps", "decode_gbps", "prefill_tok_s", "prefill_gflops"] {
            assert!(json[key].is_number(), "{key} of {json}");
        }
        assert!(json["isa"] == "plain" && json["amx_peak_gflops"].is_null() && json["decode_tok_s"]["16"].is_number());
        assert_eq!(row.decode_gbps, decoded_bytes(&config) as f64 * row.decode_tok_s["1"] / 1e9);
    }

    #[test]
    fn a_rank_that_cannot_be_made_is_named() {
        let config = FalconConfig::from_json(TINY.as_bytes()).expect("a config");
        let refuse = |_| {
            let message = "no such device".to_owned();
            Err::<Reference<SingleRank>, _>(BackendError::Device { operation: "opening", message })
        };
        let probes = Probes { read: &|_| Ok(vec![1e9]), matrix: &|_| None };
        let isa = "plain".to_owned();
        let subject = Subject { config: &config, open: &refuse, probes, isa, progress: &|_| {} };
        let error = measure(&subject, 1, 1).expect_err("an error").to_string();
        assert_eq!(error, "rank 0: opening: no such device");
    }
}
