//! A stand-in for the ranks: it keeps what a worker keeps, holds every plan against it, and answers at once.

use scheduler::SchedulerConfig;
use std::collections::HashMap;
use step::{BLOCK_TOKENS, BlockId, NewSequence, Sample, ScoredToken, SeqId, SeqOutput, SeqRun, StepId};
use step::{StepPlan, StepResult, TokenScore};

/// What a rank knows of a sequence.
pub struct Known {
    tokens: Vec<u32>,
    prompt_len: usize,
    prompt_logprobs: bool,
    min_tokens: usize,
    ends: Vec<u32>,
    /// How many of `tokens` have been computed.
    pub computed: usize,
    blocks: Vec<BlockId>,
    /// The last step that named it, if one has.
    pub last_step: Option<StepId>,
}

/// All ranks, which do the same.
pub struct Ranks {
    limits: SchedulerConfig,
    /// The token at a position of a sequence: what the model would say.
    choose: fn(SeqId, usize) -> u32,
    next_step: u64,
    /// Sequences that are not retired.
    pub sequences: HashMap<SeqId, Known>,
    /// Sequences that are retired, while a step that names them is not committed.
    leaving: Vec<Known>,
    /// How many sequences have a block, from when they gain it until they are retired and no step in flight writes to it.
    users: HashMap<BlockId, u32>,
    /// What each block holds: at each place a stamp of the token there and of all before it.
    stamps: HashMap<BlockId, [u64; BLOCK_TOKENS]>,
    committed: Option<StepId>,
}

/// The score that the model gives to the prompt token at a position.
pub fn prompt_logprob(position: usize) -> f32 {
    -f32::from(u16::try_from(position).expect("prompts are short"))
}

/// What is chosen instead of `said` where none of `ends` may be.
pub fn going_on(said: u32, ends: &[u32]) -> u32 {
    (said..).find(|id| !ends.contains(id)).expect("there are not so many ends")
}

/// A sampled token.
pub fn sample(id: u32) -> Sample {
    let score = TokenScore { logprob: -0.5, model_logprob: -0.5 };
    Sample { token: ScoredToken { id, score }, top: Vec::new(), logits: Vec::new() }
}

impl Ranks {
    pub fn new(limits: SchedulerConfig, choose: fn(SeqId, usize) -> u32) -> Self {
        Self {
            limits,
            choose,
            next_step: 0,
            sequences: HashMap::new(),
            leaving: Vec::new(),
            users: HashMap::new(),
            stamps: HashMap::new(),
            committed: None,
        }
    }

    /// Runs a step.
    pub fn run(&mut self, plan: &StepPlan) -> StepResult {
        assert_eq!(plan.step.0, self.next_step, "steps are consecutive");
        self.next_step += 1;
        assert!((1..=self.limits.step_rows_max).contains(&plan.rows()), "{} rows", plan.rows());
        for seq in &plan.retired {
            let known = self.sequences.remove(seq).unwrap_or_else(|| panic!("sequence {seq} is retired unknown"));
            self.leaving.push(known);
        }
        self.free_left();
        for new in &plan.new {
            self.introduce(new);
        }
        assert!(self.sequences.len() <= self.limits.sequences_max, "{} sequences", self.sequences.len());
        let outputs = plan.runs.iter().filter_map(|run| self.run_one(run, plan.step)).collect();
        StepResult { step: plan.step, outputs, device_time_us: 0, all_reduce_time_us: None }
    }

    /// To be called once a step's result has been committed.
    pub fn committed(&mut self, step: StepId) {
        self.committed = Some(step);
        self.free_left();
    }

    fn introduce(&mut self, new: &NewSequence) {
        assert!(!new.tokens.is_empty());
        let known = Known {
            tokens: new.tokens.clone(),
            prompt_len: new.prompt_len,
            prompt_logprobs: new.prompt_logprobs,
            min_tokens: new.min_tokens,
            ends: new.ends.clone(),
            computed: 0,
            blocks: Vec::new(),
            last_step: None,
        };
        assert!(self.sequences.insert(new.seq, known).is_none(), "sequence {} comes twice", new.seq);
    }

    fn run_one(&mut self, run: &SeqRun, step: StepId) -> Option<SeqOutput> {
        let SeqRun { seq, start, len, .. } = *run;
        let known = self.sequences.get_mut(&seq).unwrap_or_else(|| panic!("sequence {seq} runs unknown"));
        assert!(known.last_step < Some(step), "sequence {seq} runs twice in step {step}");
        if known.last_step.is_none() {
            assert!(
                start.is_multiple_of(BLOCK_TOKENS) && start < known.tokens.len(),
                "sequence {seq} begins at {start}"
            );
            assert!(start == 0 || self.limits.prefix_cache && !known.prompt_logprobs, "sequence {seq} takes a hit");
            known.computed = start;
        }
        known.last_step = Some(step);
        for &block in &run.new_blocks {
            assert!(block.0 < self.limits.blocks, "there is no block {block}");
            known.blocks.push(block);
            *self.users.entry(block).or_default() += 1;
        }
        assert_eq!(start, known.computed, "sequence {seq} goes on where it is");
        let end = start + len;
        assert!(len > 0 && end <= known.tokens.len(), "sequence {seq} runs {start}..{end}");
        assert_eq!(known.blocks.len(), end.div_ceil(BLOCK_TOKENS), "blocks of sequence {seq} for {end} tokens");
        assert_eq!(run.sample, end == known.tokens.len(), "sequence {seq} samples when it has caught up");
        assert!(run.draft_tokens.is_empty() && !run.masked, "nobody asked for drafts or masks");
        known.computed = end;
        let mut stamp = 0;
        for position in 0..end {
            stamp = fastrand::Rng::with_seed(stamp ^ u64::from(known.tokens[position]) << 32 | 1).u64(..);
            let block = known.blocks[position / BLOCK_TOKENS];
            let place = &mut self.stamps.entry(block).or_default()[position % BLOCK_TOKENS];
            if position < start {
                assert_eq!(*place, stamp, "sequence {seq}: block {block} does not hold position {position}");
            } else {
                assert_eq!(self.users[&block], 1, "sequence {seq} writes to block {block}, which others use");
                *place = stamp;
            }
        }
        let scored = if known.prompt_logprobs { start + 1..known.prompt_len.min(end + 1) } else { 0..0 };
        let prompt_logprobs: Vec<_> = scored.map(prompt_logprob).collect();
        let mut samples = Vec::new();
        if run.sample {
            let said = (self.choose)(seq, end);
            let id = if end - known.prompt_len < known.min_tokens { going_on(said, &known.ends) } else { said };
            known.tokens.push(id);
            samples.push(sample(id));
        }
        let says_something = !samples.is_empty() || !prompt_logprobs.is_empty();
        says_something.then_some(SeqOutput { seq, samples, prompt_logprobs })
    }

    /// Frees the blocks of retired sequences that no step in flight names.
    fn free_left(&mut self) {
        for known in self.leaving.extract_if(.., |known| known.last_step <= self.committed) {
            for block in known.blocks {
                *self.users.get_mut(&block).expect("it has been used since it was taken") -= 1;
            }
        }
    }
}
