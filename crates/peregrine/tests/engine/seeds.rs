//! A seed gives the same tokens whatever runs beside it, and over any number of ranks.

use crate::fleet::{Setup, observe, observe_all, stop, submission};
use coordinator::Submission;
use step::{Choice, SamplingParams, SamplingSettings, TokenBias};
use testkit::goldens::Golden;

/// A drawn continuation; every other one with all filters and penalties.
fn drawn(prompt: &[u32], seed: u64) -> Submission {
    let plain = SamplingSettings { choice: Choice::Draw { seed, index: 0 }, ..SamplingSettings::default() };
    let settings = match seed % 2 {
        0 => plain,
        _ => SamplingSettings {
            temperature: 0.8,
            top_k: Some(50),
            top_p: Some(0.9),
            typical_p: Some(0.95),
            repetition_penalty: 1.1,
            relative_frequency_penalty: 0.5,
            presence_penalty: 0.5,
            frequency_penalty: -0.25,
            min_p: 0.001,
            logit_bias: Some((0..100).map(|id| TokenBias { id: id * 7, bias: (id % 5) as f32 - 2.0 }).collect()),
            watermark: true,
            ..plain
        },
    };
    submission(prompt, 40, SamplingParams::try_new(settings).expect("within limits"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_gives_the_same_tokens_alone_in_a_batch_and_at_every_degree() {
    let golden = Golden::of("falcon-demo");
    let prompts: Vec<&[u32]> = golden.cases.iter().map(|case| &case.prompt_ids[..]).collect();
    let request = |seed: u64| drawn(prompts[seed as usize % (prompts.len() - 1)], seed);
    let mut expected = None;
    for world in [1, 2, 4] {
        let setup = Setup::new("falcon-demo", "cpu", world);
        let coordinator = setup.start().await;
        let mut alone = Vec::new();
        for seed in 0..8 {
            alone.push(observe(&coordinator, request(seed)).await.tokens);
        }
        let together = observe_all(&coordinator, (0..32).map(request).collect()).await;
        stop(&coordinator).await;
        let together: Vec<_> = together.into_iter().map(|observed| observed.tokens).collect();
        assert_eq!(alone, together[..8], "{setup:?}: a batch of 32 changed a draw");
        assert_eq!(*expected.get_or_insert(together.clone()), together, "{setup:?}: the degree changed a draw");
    }
    let expected = expected.expect("three degrees ran");
    assert_ne!(expected[0], expected[11 * 2], "another seed must draw something else for the same prompt");
}
