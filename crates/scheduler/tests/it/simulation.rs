//! Random arrivals, aborts, ends of text and losses of all ranks under random limits: whatever else runs, every caller gets the
//! tokens that it would get alone.

use crate::ranks::{Ranks, going_on, prompt_logprob};
use crate::seed::Seed;
use scheduler::{Event, Lost, Occupancy, Scheduler, SchedulerConfig, Submission, SubmitError};
use std::collections::{BTreeMap, VecDeque};
use step::{BLOCK_TOKENS, FinishReason, Priority, SamplingParams, SeqId, StepPlan, StepResult};

const CASES: u64 = 500;
const OPERATIONS: usize = 200;
const VOCAB: u32 = 24;

/// What the model says at a position of a sequence: any pure function will do.
fn choose(seq: SeqId, position: usize) -> u32 {
    let mut rng = fastrand::Rng::with_seed(seq.0 << 32 | position as u64);
    rng.u32(..VOCAB)
}

/// A request, as its caller sees it.
struct Request {
    submission: Submission,
    tokens: Vec<u32>,
    prompt_logprobs: Vec<f32>,
    /// A plan has introduced it.
    introduced: bool,
    /// It has been said to run.
    started: bool,
    /// It has been aborted or has got its last token.
    ended: bool,
}

impl Request {
    /// The tokens that the sequence gets when nothing else runs, and why it ends.
    fn alone(&self, seq: SeqId) -> (Vec<u32>, FinishReason) {
        let Submission { prompt, max_new_tokens, eos, stop_token_ids, min_tokens, .. } = &self.submission;
        let ends = [&eos[..], stop_token_ids].concat();
        let chosen = |index: usize| {
            let said = choose(seq, prompt.len() + index);
            if index < *min_tokens { going_on(said, &ends) } else { said }
        };
        let mut tokens: Vec<u32> = (0..*max_new_tokens).map(chosen).collect();
        if let Some(index) = tokens.iter().position(|token| ends.contains(token)) {
            tokens.truncate(index + 1);
        }
        let last = tokens.last().expect("at least one is asked for");
        let reason = match tokens.len() == *max_new_tokens {
            true => FinishReason::Length,
            false if eos.contains(last) => FinishReason::EosToken,
            false => FinishReason::StopSequence,
        };
        (tokens, reason)
    }

    /// Tokens that are run at most: the last that is sampled is not.
    fn positions_max(&self) -> usize {
        self.submission.prompt.len() + self.submission.max_new_tokens - 1
    }

    /// It begins so much like another that it may be better to wait for that.
    fn begins_like(&self, other: &Self) -> bool {
        let (ours, others) = (&self.submission.prompt, &other.submission.prompt);
        ours.iter().zip(others).take_while(|(a, b)| a == b).count() >= 2 * BLOCK_TOKENS
    }

    fn blocks_max(&self) -> usize {
        self.positions_max().div_ceil(BLOCK_TOKENS)
    }

    /// Holds what has come so far against what had to come.
    fn check(&self, seq: SeqId, finish: Option<FinishReason>) {
        let (tokens, reason) = self.alone(seq);
        assert!(tokens.starts_with(&self.tokens), "sequence {seq}: {:?} of {tokens:?}", self.tokens);
        assert_eq!(finish, (self.tokens.len() == tokens.len()).then_some(reason), "the end of sequence {seq}");
        let scored = if self.submission.prompt_logprobs { self.submission.prompt.len() } else { 1 };
        let scores: Vec<_> = (1..scored).map(prompt_logprob).collect();
        assert!(scores.starts_with(&self.prompt_logprobs), "sequence {seq}: {:?}", self.prompt_logprobs);
        assert!(self.tokens.is_empty() || self.prompt_logprobs == scores, "all of the prompt is scored first");
    }
}

struct Simulation {
    config: SchedulerConfig,
    /// Prompts have as many rows as are left over, and all are of one priority: then it is plain who must run.
    plain: bool,
    /// What prompts begin with.
    beginnings: Vec<Vec<u32>>,
    scheduler: Scheduler,
    ranks: Ranks,
    requests: BTreeMap<SeqId, Request>,
    /// What the ranks have answered and the scheduler has not heard yet.
    results: VecDeque<StepResult>,
    /// Only some of those that wait may be admitted.
    restricted: bool,
    restarts: usize,
}

impl Simulation {
    fn new(rng: &mut fastrand::Rng) -> Self {
        let config = SchedulerConfig {
            blocks: rng.u32(1..=30),
            step_rows_max: rng.usize(1..=50),
            sequences_max: rng.usize(1..=8),
            steps_in_flight_max: rng.usize(1..=2),
            prefix_cache: rng.u8(..4) > 0,
        };
        let beginnings = (0..3).map(|_| (0..80).map(|_| rng.u32(..VOCAB)).collect()).collect();
        Self {
            config,
            plain: rng.bool(),
            beginnings,
            scheduler: Scheduler::new(config),
            ranks: Ranks::new(config, choose),
            requests: BTreeMap::new(),
            results: VecDeque::new(),
            restricted: false,
            restarts: 0,
        }
    }

    fn operate(&mut self, rng: &mut fastrand::Rng) {
        match rng.u8(0..100) {
            0..20 => self.submit(rng),
            20..60 => _ = self.plan(),
            60..88 => _ = self.commit(),
            88 => self.restart(rng),
            89 => self.admit_all(),
            90..95 if !self.plain => self.scheduler.limit_prompt_rows(rng.usize(0..40)),
            _ => self.abort(SeqId(rng.u64(0..=self.requests.len() as u64))),
        }
        self.check();
    }

    fn submit(&mut self, rng: &mut fastrand::Rng) {
        let mut prompt = rng.choice(&self.beginnings).expect("there are some")[..rng.usize(0..60)].to_vec();
        prompt.extend((0..rng.usize(1..20)).map(|_| rng.u32(..VOCAB)));
        let priorities = [Priority::Low, Priority::Normal, Priority::High];
        let submission = Submission {
            prompt,
            max_new_tokens: rng.usize(1..50),
            eos: (0..rng.u32(0..3)).collect(),
            stop_token_ids: (2..rng.u32(2..4)).collect(),
            min_tokens: if rng.bool() { 0 } else { rng.usize(0..20) },
            sampling: SamplingParams::GREEDY,
            priority: if self.plain { Priority::Normal } else { *rng.choice(&priorities).expect("there are some") },
            prompt_logprobs: rng.u8(..4) == 0,
            top_n: 0,
            return_logits: false,
        };
        let seq = SeqId(self.requests.len() as u64);
        let answer = self.scheduler.submit(seq, submission.clone());
        let mut request = Request {
            submission,
            tokens: Vec::new(),
            prompt_logprobs: Vec::new(),
            introduced: false,
            started: false,
            ended: false,
        };
        if let Err(SubmitError::TooLong { needed, total, .. }) = answer {
            assert_eq!((needed, total), (request.blocks_max(), self.config.blocks as usize));
            request.ended = true;
        }
        assert_eq!(
            request.ended,
            request.blocks_max() > self.config.blocks as usize,
            "only what cannot fit is refused"
        );
        self.requests.insert(seq, request);
    }

    /// Ends a sequence; it may be unknown, or have ended.
    fn abort(&mut self, seq: SeqId) {
        self.scheduler.abort(seq);
        if let Some(request) = self.requests.get_mut(&seq) {
            request.ended = true;
        }
    }

    /// The ranks are lost, and others begin, with all that ran or with some of it.
    fn restart(&mut self, rng: &mut fastrand::Rng) {
        let named: Vec<_> = self.results.iter().map(|result| result.step).collect();
        let lost = self.scheduler.restart();
        for Lost { seq, reached } in &lost {
            let known = &self.ranks.sequences[seq];
            assert_eq!(*reached, known.computed, "sequence {seq}");
            assert!(
                known.last_step.is_some_and(|step| named.contains(&step)),
                "sequence {seq} is in no step in flight"
            );
            assert_eq!(self.scheduler.computed(*seq), Some(0));
        }
        self.ranks = Ranks::new(self.config, choose);
        self.results.clear();
        self.requests.values_mut().for_each(|request| request.introduced = false);
        self.restarts += 1;
        self.restricted = rng.bool();
        let some: Vec<SeqId> = lost.iter().map(|lost| lost.seq).filter(|_| rng.bool()).collect();
        self.scheduler.admit_only(self.restricted.then_some(&some));
    }

    fn admit_all(&mut self) {
        self.restricted = false;
        self.scheduler.admit_only(None);
    }

    /// Plans a step and has the ranks run it. Says whether there was one.
    fn plan(&mut self) -> bool {
        let Some(plan) = self.scheduler.plan() else {
            let may_wait = !self.results.is_empty() || self.restricted || self.live().next().is_none();
            assert!(may_wait, "nothing is in flight, and nothing is planned");
            return false;
        };
        for new in &plan.new {
            let request = self.requests.get_mut(&new.seq).expect("it was submitted");
            let known = [&request.submission.prompt[..], &request.tokens].concat();
            assert_eq!((&new.tokens, new.prompt_len), (&known, request.submission.prompt.len()));
            request.introduced = true;
        }
        for run in &plan.runs {
            let request = &self.requests[&run.seq];
            assert!(!request.ended, "sequence {} is planned after its end", run.seq);
            assert!(run.start + run.len <= request.positions_max(), "sequence {} is planned past its end", run.seq);
        }
        self.results.push_back(self.ranks.run(&plan));
        assert!(self.results.len() <= self.config.steps_in_flight_max);
        self.check_no_row_is_wasted(&plan);
        true
    }

    /// A step with rows to spare has run all that could run, and has admitted all for which there is room.
    fn check_no_row_is_wasted(&self, plan: &StepPlan) {
        if plan.rows() == self.config.step_rows_max || !self.plain || self.restricted {
            return;
        }
        for (seq, request) in self.live().filter(|(_, request)| request.introduced) {
            let known = &self.ranks.sequences[seq];
            let runs = known.last_step == Some(plan.step) || known.computed == request.positions_max();
            assert!(runs, "sequence {seq} could run");
        }
        if let Some((seq, request)) = self.live().find(|(_, request)| !request.introduced) {
            let Occupancy { running, blocks_available, .. } = self.scheduler.load();
            let room = running < self.config.sequences_max && request.blocks_max() <= blocks_available;
            let may_wait = self.live().any(|(_, other)| other.introduced && request.begins_like(other));
            assert!(!room || may_wait, "there is room for sequence {seq}");
        }
    }

    /// Commits the oldest result. Says whether there was one.
    fn commit(&mut self) -> bool {
        let Some(result) = self.results.pop_front() else { return false };
        let step = result.step;
        let events = self.scheduler.commit(result).expect("the ranks do as they are told");
        self.ranks.committed(step);
        for event in events {
            let (seq, finish) = match event {
                Event::Started { seq, cached_tokens } => {
                    let request = self.caller(seq);
                    assert!(!std::mem::replace(&mut request.started, true), "sequence {seq} starts once");
                    assert!(cached_tokens < request.submission.prompt.len(), "the last token is computed");
                    (seq, None)
                }
                Event::PromptLogprobs { seq, logprobs } => {
                    self.caller(seq).prompt_logprobs.extend(logprobs);
                    (seq, None)
                }
                Event::Token { seq, sample, finish } => {
                    self.caller(seq).tokens.push(sample.token.id);
                    (seq, finish)
                }
            };
            let request = self.caller(seq);
            assert!(request.started, "sequence {seq} brings something before it starts");
            request.check(seq, finish);
            request.ended = finish.is_some();
        }
        true
    }

    /// The caller of a sequence, who is there until its end.
    fn caller(&mut self, seq: SeqId) -> &mut Request {
        let request = self.requests.get_mut(&seq).expect("it was submitted");
        assert!(!request.ended, "sequence {seq} has ended, and something comes");
        request
    }

    fn live(&self) -> impl Iterator<Item = (&SeqId, &Request)> {
        self.requests.iter().filter(|(_, request)| !request.ended)
    }

    fn check(&self) {
        self.scheduler.check();
        let running = self.live().filter(|(_, request)| request.introduced).count();
        let waiting = self.live().count() - running;
        let load = self.scheduler.load();
        assert_eq!((load.waiting, load.running), (waiting, running));
    }

    /// Goes on until nothing is left.
    fn drain(&mut self) {
        self.admit_all();
        while self.plan() | self.commit() {
            self.check();
        }
        let blocks_available = self.config.blocks as usize;
        assert_eq!(
            self.scheduler.load(),
            Occupancy { waiting: 0, running: 0, blocks_available },
            "all blocks are back"
        );
    }
}

#[test]
fn every_caller_gets_what_it_would_get_alone() {
    let (mut cached_tokens, mut restarts) = (0, 0);
    for seed in Seed::cases(CASES) {
        let mut rng = seed.rng();
        let mut simulation = Simulation::new(&mut rng);
        for _ in 0..OPERATIONS {
            simulation.operate(&mut rng);
        }
        simulation.drain();
        cached_tokens += simulation.scheduler.totals().cached_tokens;
        restarts += simulation.restarts;
    }
    assert!(cached_tokens > 0 && restarts > 100, "{cached_tokens} cached tokens, {restarts} restarts");
}
