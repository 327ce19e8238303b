//! Nobody waits for ever, and the short do not wait for the long.

use crate::ranks::Ranks;
use scheduler::{Scheduler, SchedulerConfig, Submission};
use step::{Priority, SamplingParams, SeqId, StepPlan};

const CONFIG: SchedulerConfig =
    SchedulerConfig { blocks: 64, step_rows_max: 64, sequences_max: 8, steps_in_flight_max: 2, prefix_cache: true };

/// How many steps a test looks at. Each of them ends much earlier, or something starves.
const STEPS_MAX: usize = 2000;

struct Service {
    scheduler: Scheduler,
    ranks: Ranks,
    next: u64,
}

impl Service {
    fn new(config: SchedulerConfig) -> Self {
        Self { scheduler: Scheduler::new(config), ranks: Ranks::new(config, |_, _| 7), next: 0 }
    }

    fn submit(&mut self, prompt_len: usize, max_new_tokens: usize, priority: Priority) -> SeqId {
        let seq = SeqId(self.next);
        self.next += 1;
        let submission = Submission {
            // No two begin alike.
            prompt: [vec![self.next as u32], vec![1; prompt_len - 1]].concat(),
            max_new_tokens,
            eos: Vec::new(),
            stop_token_ids: Vec::new(),
            min_tokens: 0,
            sampling: SamplingParams::GREEDY,
            priority,
            prompt_logprobs: false,
            top_n: 0,
            return_logits: false,
        };
        self.scheduler.submit(seq, submission).expect("it fits");
        seq
    }

    /// Plans and commits a step.
    fn step(&mut self) -> StepPlan {
        let plan = self.scheduler.plan().expect("there is work");
        let result = self.ranks.run(&plan);
        self.scheduler.commit(result).expect("as planned");
        self.ranks.committed(plan.step);
        self.scheduler.check();
        plan
    }

    /// Runs step after step, before each of which `others` come, until a sequence is admitted. Says how many were so before.
    fn admitted_before(&mut self, seq: SeqId, mut others: impl FnMut(&mut Self)) -> usize {
        let mut before = 0;
        for _ in 0..STEPS_MAX {
            others(self);
            let plan = self.step();
            match plan.new.iter().position(|new| new.seq == seq) {
                Some(index) => return before + index,
                None => before += plan.new.len(),
            }
        }
        panic!("sequence {seq} starves");
    }
}

#[test]
fn a_low_priority_is_overtaken_by_a_bounded_number_of_higher_ones() {
    let mut service = Service::new(CONFIG);
    let low = service.submit(8, 4, Priority::Low);
    let before = service.admitted_before(low, |service| {
        // More than there is room for.
        for priority in [Priority::High, Priority::Normal, Priority::High].repeat(4) {
            service.submit(8, 4, priority);
        }
    });
    assert!((30..=66).contains(&before), "{before} were admitted before it");
}

#[test]
fn one_that_needs_all_the_room_gets_it_although_small_ones_keep_coming() {
    let mut service = Service::new(CONFIG);
    service.submit(8, 4, Priority::Normal);
    service.step();
    let large = service.submit(900, 120, Priority::Normal);
    let before = service.admitted_before(large, |service| _ = service.submit(8, 4, Priority::Normal));
    assert!((30..=64).contains(&before), "{before} were admitted before it");
}

#[test]
fn a_short_prompt_waits_for_short_ones_alone() {
    let mut service = Service::new(CONFIG);
    // Fifteen steps of rows are wanted before it.
    (0..3).for_each(|_| _ = service.submit(320, 1, Priority::Normal));
    let short: Vec<_> = (0..4).map(|_| service.submit(8, 1, Priority::Normal)).collect();
    let first = service.step();
    let second = service.step();
    let runs: Vec<_> = [&first, &second].map(|plan| plan.new.iter().map(|new| new.seq).collect::<Vec<_>>()).concat();
    assert_eq!(runs, [SeqId(0), short[0], short[1], short[2], short[3]]);
    assert_eq!((first.rows(), second.rows()), (64, 64), "no row is left unused");
}

#[test]
fn an_abort_frees_its_blocks_within_two_steps() {
    let mut service = Service::new(CONFIG);
    let long = service.submit(600, 200, Priority::Normal);
    let other = service.submit(8, 16, Priority::Normal);
    service.step();
    let plans = [service.scheduler.plan(), service.scheduler.plan()].map(|plan| plan.expect("one step ahead"));
    assert!(plans.iter().all(|plan| plan.runs.iter().any(|run| run.seq == long)));
    service.scheduler.abort(long);
    for plan in plans {
        let result = service.ranks.run(&plan);
        service.scheduler.commit(result).expect("as planned");
        service.ranks.committed(plan.step);
    }
    service.scheduler.check();
    let of_other = (8_usize + 16 - 1).div_ceil(step::BLOCK_TOKENS);
    assert_eq!(service.scheduler.load().blocks_available, CONFIG.blocks as usize - of_other);
    assert!(service.step().runs.iter().all(|run| run.seq == other));
}
