//! Steps as a scheduler plans them: the same bits come of steps that were captured and of those that were not, and whether
//! one is begun while another is on its way or not.

use crate::standin::install;
use backend::{
    Backend, Batch, BatchSeq, Collective, SampleOutput, SampleRequest, SampleRow, SingleRank, StepInput, StepLimits,
    Threads,
};
use backend_cuda::{AllReduceChoice, Cuda, CudaOptions};
use forward::{Capacity, Falcon, ModelRunner};
use model::Partition;
use scheduler::{Event, Scheduler, SchedulerConfig, Submission};
use std::time::Duration;
use step::{
    BlockId, Choice, NewSequence, Priority, SamplingParams, SamplingSettings, SeqId, SeqRun, StepId, StepPlan,
    TokenBias,
};
use testkit::goldens::model_dir;
use testkit::on_threads;
use weights::Checkpoint;
use worker::ShardSource;

const MODEL: &str = "tiny-falcon-7b";
const ROWS_MAX: usize = 24;
/// Far more steps than any run here needs.
const STEPS_MAX: usize = 1000;

/// A rank of the model.
pub fn load(options: &CudaOptions, collective: Threads) -> ModelRunner<Cuda> {
    let dir = model_dir(MODEL);
    let checkpoint = Checkpoint::open(&dir).expect("a checkpoint");
    let config = checkpoint.config();
    let partition = Partition::new(config, collective.rank(), collective.world());
    let reader = checkpoint.shard(&partition).expect("not cut");
    let capacity = Capacity { kv_blocks: 64, rows_max: ROWS_MAX, logits_rows_max: 4 };
    let options = CudaOptions { device: collective.rank(), ..options.clone() };
    let backend = Cuda::new(&options, Box::new(collective)).expect("a device");
    ModelRunner::new(Falcon::load(backend, config, &partition, capacity, &ShardSource(reader)).expect("load"))
}

/// A step of `rows` tokens of a sequence: the first step is its prompt, and all later ones run what was sampled.
pub fn plan(step: usize, rows: usize) -> StepPlan {
    let seq = SeqId(0);
    let new = NewSequence {
        seq,
        tokens: (0..rows as u32).collect(),
        prompt_len: rows,
        sampling: SamplingParams::GREEDY,
        min_tokens: 0,
        ends: Vec::new(),
        prompt_logprobs: false,
        top_n: 0,
        return_logits: false,
    };
    let (first, start) = (step == 0, if step == 0 { 0 } else { 2 + step });
    let new_blocks = if first { vec![BlockId(0)] } else { Vec::new() };
    let run = SeqRun { seq, start, len: rows, new_blocks, draft_tokens: Vec::new(), sample: true, masked: false };
    let new = if first { vec![new] } else { Vec::new() };
    StepPlan { step: StepId(step as u64), new, retired: Vec::new(), runs: vec![run] }
}

/// Requests of many kinds: greedy and drawn, with everything that looks at the tokens before, long prompts and short ones.
fn requests() -> Vec<Submission> {
    let all = SamplingSettings {
        choice: Choice::Draw { seed: 42, index: 3 },
        temperature: 1.3,
        top_p: Some(0.95),
        repetition_penalty: 1.5,
        relative_frequency_penalty: 0.5,
        presence_penalty: 0.25,
        frequency_penalty: -0.5,
        min_p: 0.01,
        logit_bias: Some((0..20).map(|id| TokenBias { id, bias: id as f32 / 8.0 }).collect()),
        watermark: true,
        ..SamplingSettings::default()
    };
    let penalized = SamplingSettings { repetition_penalty: 2.0, ..SamplingSettings::default() };
    let kinds = [SamplingSettings::default(), penalized, all];
    let request = |index: usize| Submission {
        prompt: (0..[3, 1, 37, 15, 2, 20][index % 6]).map(|i| (i * 7 + index as u32 * 5) % 64).collect(),
        max_new_tokens: [9, 4, 6, 12, 1, 7][index % 6],
        eos: Vec::new(),
        // Half of all tokens, so that most sequences end as soon as they may.
        stop_token_ids: if index % 2 == 1 { (0..64).step_by(2).collect() } else { Vec::new() },
        min_tokens: index % 4,
        sampling: SamplingParams::try_new(kinds[index % kinds.len()].clone()).expect("valid settings"),
        priority: Priority::Normal,
        prompt_logprobs: index == 2,
        top_n: index % 3,
        return_logits: index == 3,
    };
    (0..7).map(request).collect()
}

/// What came of a run: bits of everything that a rank reports, by sequence.
type Outcome = Vec<Vec<u32>>;

/// Runs all requests, of which a new one comes every other step.
fn run(engine: &mut ModelRunner<Cuda>) -> Outcome {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        blocks: 64,
        step_rows_max: ROWS_MAX,
        sequences_max: 6,
        steps_in_flight_max: 2,
        prefix_cache: false,
    });
    let mut coming = requests().into_iter().enumerate();
    let mut outcome = vec![Vec::new(); coming.len()];
    let (mut steps, mut in_flight, mut plans) = (0, 0, std::collections::VecDeque::new());
    loop {
        while let Some(plan) = scheduler.plan() {
            steps += 1;
            plans.push_back(plan);
            if steps % 2 == 1
                && let Some((index, request)) = coming.next()
            {
                scheduler.submit(SeqId(index as u64), request).expect("room");
            }
        }
        if plans.is_empty() && in_flight == 0 {
            match coming.next() {
                Some((index, request)) => scheduler.submit(SeqId(index as u64), request).expect("room"),
                None => return outcome,
            }
            continue;
        }
        assert!(steps < STEPS_MAX, "{steps} steps");
        while in_flight < engine.steps_in_flight_max()
            && let Some(plan) = plans.pop_front()
        {
            engine.begin(plan, &[]).expect("begin");
            in_flight += 1;
        }
        if let Some(result) = engine.poll().expect("poll") {
            in_flight -= 1;
            scheduler.commit(result).expect("commit").into_iter().for_each(|event| note(&mut outcome, event));
            scheduler.check();
        }
    }
}

fn note(outcome: &mut Outcome, event: Event) {
    match event {
        Event::Started { .. } => {}
        Event::PromptLogprobs { seq, logprobs } => {
            outcome[seq.0 as usize].extend(logprobs.into_iter().map(f32::to_bits));
        }
        Event::Token { seq, sample, .. } => {
            let to = &mut outcome[seq.0 as usize];
            for scored in std::iter::once(sample.token).chain(sample.top) {
                to.extend([scored.id, scored.score.logprob.to_bits(), scored.score.model_logprob.to_bits()]);
            }
            to.extend(sample.logits.into_iter().map(f32::to_bits));
        }
    }
}

/// What each rank reports.
fn on_all_ranks(world: usize, options: &CudaOptions) -> Vec<Outcome> {
    on_threads(Threads::connect(world), |_, end| run(&mut load(options, end)))
}

/// Graphs, and one step ahead.
const BOTH: (bool, bool) = (true, true);

/// All these ways to begin steps, with graphs or without, ahead or not, give the same bits as without either.
fn check(world: usize, all_reduce: AllReduceChoice, ways: &[(bool, bool)]) {
    install();
    let wait_limit = Duration::from_secs(300);
    let options = |graphs, run_ahead| CudaOptions { all_reduce, graphs, run_ahead, wait_limit, ..CudaOptions::new(0) };
    let plain = on_all_ranks(world, &options(false, false));
    assert!(plain.iter().all(|rank| *rank == plain[0]), "ranks differ");
    assert!(plain[0].iter().all(|sequence| !sequence.is_empty()), "a sequence without tokens");
    for &(graphs, run_ahead) in ways {
        let found = on_all_ranks(world, &options(graphs, run_ahead));
        assert!(found == plain, "{world} ranks, graphs {graphs}, run ahead {run_ahead}: other bits");
    }
}

#[test]
fn alone() {
    check(1, AllReduceChoice::Auto, &[BOTH, (true, false)]);
}

#[test]
fn in_one_shot() {
    check(2, AllReduceChoice::OneShot, &[BOTH, (false, true)]);
}

#[test]
fn in_two_shots() {
    check(3, AllReduceChoice::TwoShot, &[BOTH]);
}

#[test]
fn by_nccl() {
    check(2, AllReduceChoice::Nccl, &[BOTH]);
}

#[test]
fn through_the_host() {
    check(2, AllReduceChoice::Host, &[BOTH]);
}

/// An embedding whose rows are the logits, captured: a step that fits is replayed, and does not run its operations again.
#[test]
fn a_captured_step_is_replayed() {
    install();
    let mut backend = Cuda::new(&CudaOptions::new(0), Box::new(SingleRank)).expect("a device");
    let read = |elements: std::ops::Range<usize>, to: &mut [half::bf16]| {
        // Row t is largest at column (3t + 1) % 8.
        let value = |i: usize| half::bf16::from_f32(if i % 8 == (3 * (i / 8) + 1) % 8 { 1.0 } else { 0.0 });
        elements.zip(to).for_each(|(i, to)| *to = value(i));
    };
    let table = backend.matrix(8, 8, &read).expect("room");
    let mut x = backend.tensor(6, 8).expect("room");
    backend
        .seal(&StepLimits { rows: 6, logits_rows: 6, hidden: 8, vocab: vec![8], positions: 32, sequences: 4 })
        .expect("ready");
    let mut captured = Vec::new();
    for rows in backend.buckets() {
        captured.push(rows);
        let (batch, wanted) = (Batch::of_single_rows(rows), (0..rows).collect::<Vec<_>>());
        let requests = vec![SampleRequest::Score { token: 0 }; rows];
        let step = backend.begin_capture(StepInput { batch: &batch, rows: &wanted, requests: &requests });
        let step = step.expect("a capture begins");
        backend.set_rows(&step, &mut x);
        backend.embed(&table, 0, &step, &mut x).expect("embed");
        backend.sample_or_score(&x, &[8], &step, 0..rows).expect("sample_or_score");
        backend.end_capture(step).expect("a capture ends");
    }
    assert_eq!(captured, [1, 2, 4, 6]);
    let mut chosen = vec![Vec::new(); 3];
    for (slot, chosen) in chosen.iter_mut().enumerate() {
        backend.set_tokens(slot, 0, &[slot as u32]).expect("tokens");
        chosen.push(slot as u32);
    }
    for start in 0..5 {
        let seq = |slot: usize| BatchSeq { rows: slot..slot + 1, start, slot: Some(slot), table: 0..2 };
        let batch = Batch { tokens: vec![0; 3], seqs: (0..3).map(seq).collect(), blocks: vec![0, 1] };
        let position = start as u32 + 1;
        let row =
            SampleRow { params: &SamplingParams::GREEDY, position, prompt_len: 0, tokens: &[], mask: None, top_n: 0 };
        let sample = |slot| SampleRequest::Sample { row, slot: Some(slot), return_logits: false };
        let requests: Vec<_> = (0..3).map(sample).collect();
        let input = StepInput { batch: &batch, rows: &[0, 1, 2], requests: &requests };
        let mut step = backend.prepare(input).expect("prepare");
        let outputs = backend.replay(&mut step).expect("replay").expect("a step that was captured");
        let outputs = [Some(outputs), backend.end(step).expect("end")].into_iter().flatten();
        let outputs = outputs.flat_map(|part| backend.wait(part).expect("outputs"));
        for (output, chosen) in outputs.collect::<Vec<_>>().into_iter().zip(&mut chosen) {
            let SampleOutput::Sample(sample) = output else { panic!("{output:?}") };
            assert_eq!(sample.token.id, (3 * chosen[start] + 1) % 8, "behind {chosen:?}");
            chosen.push(sample.token.id);
        }
    }
}
