//! The detector finds watermarked texts of the demo model, and no others.

use crate::fleet::{Setup, observe_all, stop, submission};
use sampling::watermark::detect;
use step::{Choice, SamplingParams, SamplingSettings};
use testkit::goldens::Golden;

const TOKENS: usize = 200;
/// A watermark can only tip choices that are open. The demo model knows much of its text by heart: at a temperature of 1 most of
/// its stories, and nearly all of its answers to questions, leave too few such choices among 200 tokens.
const TEMPERATURE: f32 = 1.5;
const VOCAB: u32 = 3072;
/// Texts that are drawn at once.
const BATCH: usize = 64;

/// How many of `count` drawn texts of [`TOKENS`] tokens have a z-score above 4.
async fn found(coordinator: &coordinator::Coordinator, prompts: &[Vec<u32>], count: usize, watermark: bool) -> usize {
    let text = |index: usize| {
        let choice = Choice::Draw { seed: index as u64, index: 0 };
        let settings = SamplingSettings { choice, watermark, temperature: TEMPERATURE, ..SamplingSettings::default() };
        let sampling = SamplingParams::try_new(settings).expect("within limits");
        submission(&prompts[index % prompts.len()], TOKENS, sampling)
    };
    let mut found = 0;
    for first in (0..count).step_by(BATCH) {
        let texts = observe_all(coordinator, (first..count.min(first + BATCH)).map(text).collect()).await;
        found += texts.iter().filter(|text| detect(&text.tokens, VOCAB).z_score > 4.0).count();
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn watermarked_texts_are_found_and_no_others() {
    let setup = Setup::new("falcon-demo", "cpu", 2);
    let coordinator = setup.start().await;
    let golden = Golden::of("falcon-demo");
    let prompts = ["once", "tale"].map(|name| golden.case(name).prompt_ids.clone());
    let (marked, unmarked) = if crate::goldens::everything() { (400, 2000) } else { (60, 200) };
    let true_positives = found(&coordinator, &prompts, marked, true).await;
    let false_positives = found(&coordinator, &prompts, unmarked, false).await;
    stop(&coordinator).await;
    println!("found {true_positives} of {marked} watermarked, {false_positives} of {unmarked} others");
    assert!(true_positives * 100 >= marked * 95, "found {true_positives} of {marked} watermarked texts");
    assert!(false_positives * 1000 <= unmarked, "found {false_positives} of {unmarked} texts without a watermark");
}
