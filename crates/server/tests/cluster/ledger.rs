//! A backend that computes nothing but keeps books: a token of a sequence is a function of all before it, and it is found by
//! way of the KV cache. So a block that was shared, reused or written wrongly shows in the very next token.

use backend::{
    AttentionShape, Backend, BackendError, Footprint, Linear, Norm, NormLinear, ReadWeights, ReferenceFootprint,
    SampleOutput, SampleRequest, StepInput, Tensor, select_then_norm_linear,
};
use forward::{Capacity, Falcon, ModelRunner, WeightSource};
use half::bf16;
use model::{FalconConfig, Partition, ShardTensor};
use std::ops::Range;
use step::{BLOCK_TOKENS, Sample, ScoredToken, TokenScore};

/// Tokens are below this.
pub const VOCAB: u32 = 48;

/// The smallest Falcon that can be cut over three ranks.
const CONFIG: &str = r#"{"model_type": "falcon", "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 1,
    "vocab_size": 48, "multi_query": true, "parallel_attn": true, "bias": false, "alibi": false,
    "new_decoder_architecture": false, "layer_norm_epsilon": 1e-5, "max_position_embeddings": 2048, "eos_token_id": 0}"#;

/// The engine of one rank.
pub fn engine(rank: usize, world: usize, kv_blocks: usize, rows_max: usize) -> ModelRunner<Ledger> {
    let config = FalconConfig::from_json(CONFIG.as_bytes()).expect("a config");
    let capacity = Capacity { kv_blocks, rows_max, logits_rows_max: 8 };
    let falcon = Falcon::load(Ledger, &config, &Partition::new(&config, rank, world), capacity, &NoWeights);
    ModelRunner::new(falcon.expect("there is nothing to load"))
}

/// Continues a sequence as it goes on when it is alone.
pub fn continue_alone(prompt: &[u32], count: usize) -> Vec<u32> {
    let (mut stamp, mut sum) = (0, 0);
    let mut run = |token| {
        stamp = behind(stamp, token);
        sum = add(sum, stamp);
        choice(sum)
    };
    let mut next = prompt.iter().map(|&token| run(token)).last().expect("a prompt");
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(next);
        next = run(next);
    }
    tokens
}

/// The stamp of a token behind the one that has the stamp `before`: what the KV cache keeps of it.
fn behind(before: u64, token: u32) -> u64 {
    fastrand::Rng::with_seed(before.rotate_left(17) ^ u64::from(token + 1)).u64(..)
}

/// The sum over the stamps of all tokens so far: what attention makes of the KV cache.
fn add(sum: u64, stamp: u64) -> u64 {
    sum.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(stamp)
}

/// The token that follows.
fn choice(sum: u64) -> u32 {
    ((sum >> 32) % u64::from(VOCAB)) as u32
}

pub struct Ledger;

/// A tensor of which each row is one number: a token, then the sum that attention makes.
pub struct Numbers(Vec<u64>);

impl Tensor for Numbers {
    fn rows(&self) -> usize {
        self.0.len()
    }

    fn columns(&self) -> usize {
        1
    }

    fn set_rows(&mut self, rows: usize) {
        self.0.resize(rows, 0);
    }
}

/// Hands the numbers on.
fn copy(x: &Numbers, y: &mut Numbers) -> Result<(), BackendError> {
    y.0.clone_from(&x.0);
    Ok(())
}

impl Backend for Ledger {
    type Tensor = Numbers;
    type Matrix = ();
    type Vector = ();
    type KvCache = Vec<[u64; BLOCK_TOKENS]>;
    type Step<'a> = StepInput<'a>;
    type Pending = Vec<SampleOutput>;

    fn footprint(&self) -> &dyn Footprint {
        &ReferenceFootprint
    }

    fn matrix(&mut self, _: usize, _: usize, _: &ReadWeights<'_>) -> Result<(), BackendError> {
        Ok(())
    }

    fn vector(&mut self, _: &[f32]) -> Result<(), BackendError> {
        Ok(())
    }

    fn tensor(&mut self, _: usize, _: usize) -> Result<Numbers, BackendError> {
        Ok(Numbers(Vec::new()))
    }

    fn kv_cache(&mut self, _: &AttentionShape, _: usize, blocks: usize) -> Result<Self::KvCache, BackendError> {
        Ok(vec![[0; BLOCK_TOKENS]; blocks])
    }

    fn write(&mut self, _: &mut Numbers, _: &[f32]) -> Result<(), BackendError> {
        unreachable!("only tests of operations write")
    }

    fn read(&mut self, _: &Numbers) -> Result<Vec<f32>, BackendError> {
        unreachable!("only tests of operations read")
    }

    fn wait(&mut self, outputs: Vec<SampleOutput>) -> Result<Vec<SampleOutput>, BackendError> {
        Ok(outputs)
    }

    fn prepare<'a>(&mut self, input: StepInput<'a>) -> Result<StepInput<'a>, BackendError> {
        Ok(input)
    }

    fn set_rows(&self, step: &StepInput<'_>, x: &mut Numbers) {
        x.set_rows(step.batch.rows());
    }

    fn embed(&mut self, _: &(), _: usize, step: &StepInput<'_>, y: &mut Numbers) -> Result<(), BackendError> {
        y.0 = step.batch.tokens.iter().map(|&token| token.into()).collect();
        Ok(())
    }

    fn layer_norm(&mut self, x: &Numbers, _: &Norm<Self>, y: &mut Numbers) -> Result<(), BackendError> {
        copy(x, y)
    }

    fn linear(&mut self, x: &Numbers, _: &Linear<Self>, y: &mut Numbers) -> Result<(), BackendError> {
        copy(x, y)
    }

    fn linear_add(&mut self, _: &Numbers, _: &Linear<Self>, _: &mut Numbers) -> Result<(), BackendError> {
        Ok(())
    }

    fn gelu(&mut self, _: &mut Numbers) -> Result<(), BackendError> {
        Ok(())
    }

    fn attend(
        &mut self,
        qkv: &Numbers,
        &StepInput { batch, .. }: &StepInput<'_>,
        _: usize,
        cache: &mut Self::KvCache,
        y: &mut Numbers,
    ) -> Result<(), BackendError> {
        for seq in &batch.seqs {
            let table = batch.table(seq);
            let at = |position: usize| (table[position / BLOCK_TOKENS] as usize, position % BLOCK_TOKENS);
            for (index, row) in seq.rows.clone().enumerate() {
                let (position, token) = (seq.start + index, u32::try_from(qkv.0[row]).expect("a token"));
                let before = position.checked_sub(1).map_or(0, |before| cache[at(before).0][at(before).1]);
                cache[at(position).0][at(position).1] = behind(before, token);
                y.0[row] = (0..=position).fold(0, |sum, position| add(sum, cache[at(position).0][at(position).1]));
            }
        }
        Ok(())
    }

    fn select(&mut self, x: &Numbers, rows: &[usize], y: &mut Numbers) -> Result<(), BackendError> {
        y.0 = rows.iter().map(|&row| x.0[row]).collect();
        Ok(())
    }

    fn select_norm_linear(
        &mut self,
        x: &Numbers,
        step: &StepInput<'_>,
        wanted: Range<usize>,
        product: NormLinear<'_, Self>,
        scratch: [&mut Numbers; 2],
    ) -> Result<(), BackendError> {
        select_then_norm_linear(self, x, &step.rows[wanted], product, scratch)
    }

    fn all_reduce(&mut self, _: &mut Numbers) -> Result<(), BackendError> {
        Ok(())
    }

    fn all_reduce_add(&mut self, partial: &mut Numbers, x: &mut Numbers) -> Result<(), BackendError> {
        copy(partial, x)
    }

    fn sample_or_score(
        &mut self,
        logits: &Numbers,
        _: &[usize],
        step: &StepInput<'_>,
        wanted: Range<usize>,
    ) -> Result<Vec<SampleOutput>, BackendError> {
        let score = TokenScore { logprob: -1.0, model_logprob: -1.0 };
        let output = |(&sum, used): (&u64, &SampleRequest<'_>)| match used {
            SampleRequest::Score { .. } => SampleOutput::Score(-1.0),
            SampleRequest::Sample { .. } => {
                let token = ScoredToken { id: choice(sum), score };
                SampleOutput::Sample(Sample { token, top: Vec::new(), logits: Vec::new() })
            }
        };
        Ok(logits.0.iter().zip(&step.requests[wanted]).map(output).collect())
    }
}

struct NoWeights;

impl WeightSource for NoWeights {
    fn read(&self, _: &ShardTensor, _: Range<usize>, out: &mut [bf16]) {
        out.fill(bf16::ZERO);
    }

    fn read_f32(&self, _: &ShardTensor, out: &mut [f32]) {
        out.fill(0.0);
    }

    fn release(&self, _: &ShardTensor) {}
}
