//! A request's tokens, probabilities and logits are the same to the bit, however it is scheduled.

use crate::fleet::{Setup, observe, observe_all, stop, submission};
use coordinator::{Coordinator, CoordinatorConfig, Submission};
use step::{Choice, SamplingParams, SamplingSettings};
use testkit::goldens::{Golden, Observed};

/// Tokens of the prompt: more than the largest chunk, and not a whole number of blocks.
const PROMPT_TOKENS: usize = 155;
const NEW_TOKENS: usize = 24;

fn drawn(prompt: &[u32], seed: u64) -> Submission {
    let settings = SamplingSettings {
        choice: Choice::Draw { seed, index: 0 },
        temperature: 0.9,
        top_p: Some(0.95),
        repetition_penalty: 1.1,
        ..SamplingSettings::default()
    };
    let sampling = SamplingParams::try_new(settings).expect("within limits");
    Submission { return_logits: true, ..submission(prompt, NEW_TOKENS, sampling) }
}

/// The request, and 31 others, some of which begin like it.
fn requests(model: &str) -> Vec<Submission> {
    let golden = Golden::of(model);
    let words: Vec<u32> = golden.cases.iter().flat_map(|case| case.prompt_ids.iter().copied()).collect();
    let prompt: Vec<u32> = words.iter().copied().cycle().take(PROMPT_TOKENS).collect();
    let other = |index: usize| match index % 3 {
        0 => prompt.clone(),
        1 => [&prompt[..4 * index], &words[index..][..10]].concat(),
        _ => words[index..][..index + 1].to_vec(),
    };
    let others = (1..32).map(|index| drawn(&other(index), index as u64));
    std::iter::once(drawn(&prompt, 0)).chain(others).collect()
}

/// Runs the request alone, twice, and then among others.
async fn three_times(coordinator: &Coordinator, requests: &[Submission]) -> [Observed; 3] {
    let alone = observe(coordinator, requests[0].clone()).await;
    let again = observe(coordinator, requests[0].clone()).await;
    let among = observe_all(coordinator, requests.to_vec()).await.swap_remove(0);
    [alone, again, among]
}

/// A way to schedule.
type Change = fn(&mut CoordinatorConfig);

#[tokio::test(flavor = "multi_thread")]
async fn scheduling_changes_no_bit() {
    let plain: Change = |config| (config.prefix_cache, config.steps_in_flight_max) = (false, 1);
    let ways: [(&str, Change); 6] = [
        ("nothing shared, nothing ahead", plain),
        ("nothing shared, one step ahead", |config| config.prefix_cache = false),
        ("prefixes shared, nothing ahead", |config| config.steps_in_flight_max = 1),
        ("chunks of one token", |config| (config.step_rows_max, config.sequences_max) = (1, 1)),
        ("chunks of at most 7 tokens", |config| (config.step_rows_max, config.sequences_max) = (7, 7)),
        ("chunks of at most 128 tokens", |config| config.step_rows_max = 128),
    ];
    for model in ["falcon-demo", "tiny-falcon-40b"] {
        let (setup, requests) = (Setup::new(model, "cpu", 2), requests(model));
        let mut expected = None;
        for (way, change) in ways {
            let coordinator = setup.start_with(change).await;
            let [alone, again, among] = three_times(&coordinator, &requests).await;
            let cached = coordinator.activity().totals.cached_tokens;
            stop(&coordinator).await;
            let expected = &*expected.get_or_insert(alone.clone());
            assert_eq!(expected.tokens.len(), NEW_TOKENS);
            for (how, observed) in [("alone", alone), ("once more", again), ("among 32", among)] {
                assert!(observed == *expected, "{model}, {way}, {how}: {:?}", (&observed.tokens, &expected.tokens));
            }
            assert_eq!(cached > 0, !way.starts_with("nothing shared"), "{model}, {way}: {cached} tokens were known");
        }
    }
}
