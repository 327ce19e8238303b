//! Tokens that end a sequence, and those that it must have before.

use crate::fleet::{Setup, observe, observe_all, stop, submission};
use coordinator::Submission;
use step::SamplingParams;
use testkit::goldens::Golden;

const NEW_TOKENS: usize = 16;
const LEAST: usize = 9;

async fn check(setup: Setup) {
    let prompt = &Golden::of(setup.model).cases[0].prompt_ids;
    let coordinator = setup.start().await;
    let whole = || submission(prompt, NEW_TOKENS, SamplingParams::GREEDY);
    let alone = observe(&coordinator, whole()).await.tokens;
    assert_eq!(alone.len(), NEW_TOKENS, "{setup:?}");
    // One that comes early; it may have come even earlier.
    let end = alone[4];
    let first = alone.iter().position(|&token| token == end).expect("it is there");
    let stopped = Submission { stop_token_ids: vec![end, u32::MAX], ..whole() };
    let eos = Submission { eos: vec![end], min_tokens: LEAST, ..whole() };
    let both = Submission { stop_token_ids: vec![end], min_tokens: NEW_TOKENS, eos: vec![u32::MAX], ..whole() };
    let found = observe_all(&coordinator, vec![stopped, eos, both, whole()]).await;
    stop(&coordinator).await;
    let [stopped, eos, both, beside] = &found[..] else { unreachable!("four were asked for") };
    assert_eq!(stopped.tokens, alone[..=first], "{setup:?}: the stop token ends it, as its last token");
    assert_eq!(eos.tokens[..first], alone[..first], "{setup:?}: nothing but the ends is taken out");
    assert!(eos.tokens.len() > LEAST && !eos.tokens[..LEAST].contains(&end), "{setup:?}: {:?}", eos.tokens);
    assert!(both.tokens.len() == NEW_TOKENS && !both.tokens.contains(&end), "{setup:?}: {:?}", both.tokens);
    assert_eq!(beside.tokens, alone, "{setup:?}: a sequence beside them is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_tokens_end_a_sequence_once_it_has_its_least_tokens() {
    for (model, backend, world) in [
        ("falcon-demo", "cpu", 1),
        ("falcon-demo", "cpu", 4),
        ("tiny-falcon-7b", "reference", 2),
        ("tiny-falcon-7b", "cuda", 2),
    ] {
        // Kernels for many rows have other bits.
        let flags: &[&str] = if backend == "cuda" { &["--deterministic"] } else { &[] };
        check(Setup { flags, ..Setup::new(model, backend, world) }).await;
    }
}
