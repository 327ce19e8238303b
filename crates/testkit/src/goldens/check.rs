//! What we computed, held against the goldens.

use super::{Case, PenaltyCase};

/// How far what we computed may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// A logit or log-probability.
    pub value: f32,
    /// A greedy choice must be equal where the best logit leads the second by more than this.
    pub margin: f32,
}

impl Tolerance {
    /// Where all is computed in f32.
    pub const F32: Self = Self { value: 2e-3, margin: 4e-3 };
}

/// What we computed for one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Log-probability of each prompt token but the first.
    pub prompt_logprobs: Vec<f32>,
    /// The generated tokens.
    pub tokens: Vec<u32>,
    /// The log-probability of each.
    pub logprobs: Vec<f32>,
    /// The logits from which each was chosen.
    pub logits: Vec<Vec<f32>>,
}

impl Case {
    /// Holds a greedy continuation of [`Case::prompt_ids`] against the golden one. Returns what does not fit.
    #[must_use]
    pub fn check_greedy(&self, observed: &Observed, tolerance: Tolerance) -> Vec<String> {
        let mut wrong = Vec::new();
        let expected: Vec<f32> = self.prompt_logprobs.iter().copied().flatten().collect();
        close("prompt logprob", &observed.prompt_logprobs, &expected, tolerance, &mut wrong);
        let greedy = &self.greedy;
        let same = compared(&observed.tokens, &greedy.ids, &greedy.margins, tolerance, &mut wrong);
        close("logprob", &observed.logprobs[..same], &greedy.logprobs[..same], tolerance, &mut wrong);
        // The logits of the token at which the sequences part are still those of the same context.
        for (step, (logits, top)) in observed.logits.iter().zip(&self.top20).take(same + 1).enumerate() {
            let ours: Vec<f32> = top.ids.iter().map(|&id| logits[id as usize]).collect();
            close(&format!("top logit at token {step}"), &ours, &top.logits, tolerance, &mut wrong);
        }
        if let Some(first) = observed.logits.first() {
            close("logit", first, &self.prefill_logits, tolerance, &mut wrong);
        }
        self.label(wrong)
    }

    /// What is asked of a backend that rounds what enters its products of `model` to bf16: less than what rounding everything
    /// costs. The model with ALiBi costs any rounding more, up to 0.9 of that, and gets all of it.
    #[must_use]
    pub fn bf16_tolerance(&self, model: &str) -> Tolerance {
        let share = if model == "tiny-falcon-rw" { 1.0 } else { 0.6 };
        let value = self.bf16_compute.max_abs_logit_diff * share;
        Tolerance { value, margin: 2.0 * value }
    }

    /// Holds choices against the golden ones of which each was made behind the golden tokens, whatever we chose before.
    /// Returns what does not fit, and how far the logits that the golden has are off at most.
    #[must_use]
    pub fn check_taught(&self, taught: &Observed, tolerance: Tolerance) -> (Vec<String>, f32) {
        let (mut wrong, greedy) = (Vec::new(), &self.greedy);
        for (step, (&found, &margin)) in taught.tokens.iter().zip(&greedy.margins).enumerate() {
            if found != greedy.ids[step] && margin > tolerance.margin {
                wrong.push(format!(
                    "taught token {step}: expected {}, found {found}, margin {margin}",
                    greedy.ids[step]
                ));
            }
        }
        let first = taught.logits.iter().take(1).map(|row| (row.clone(), &self.prefill_logits));
        let top = taught.logits.iter().zip(&self.top20);
        let top = top.map(|(row, top)| (top.ids.iter().map(|&id| row[id as usize]).collect(), &top.logits));
        let mut worst = 0.0f32;
        for (index, (ours, golden)) in first.chain(top).enumerate() {
            close(&format!("taught logits {index}"), &ours, golden, tolerance, &mut wrong);
            // A NaN is further off than anything.
            let off = ours.iter().zip(golden).map(|(ours, golden)| (ours - golden).abs());
            worst = off.fold(worst, |worst, off| if off <= worst { worst } else { off });
        }
        (self.label(wrong), worst)
    }

    /// Prompt and golden continuation as one prompt: every logit that the golden continuation has is then computed from the
    /// golden tokens, whatever we would have chosen.
    #[must_use]
    pub fn forced_ids(&self) -> Vec<u32> {
        [&self.prompt_ids[..], &self.greedy.ids].concat()
    }

    /// Holds the prompt log-probabilities of [`Case::forced_ids`] against the golden ones.
    #[must_use]
    pub fn check_forced(&self, observed: &Observed, tolerance: Tolerance) -> Vec<String> {
        let mut wrong = Vec::new();
        let prompt = self.prompt_logprobs.iter().copied().flatten();
        let expected: Vec<f32> = prompt.chain(self.greedy.logprobs.iter().copied()).collect();
        close("forced logprob", &observed.prompt_logprobs, &expected, tolerance, &mut wrong);
        self.label(wrong)
    }

    fn label(&self, wrong: Vec<String>) -> Vec<String> {
        wrong.into_iter().map(|what| format!("{}: {what}", self.name)).collect()
    }
}

impl PenaltyCase {
    /// Holds a greedy continuation with the case's penalties against the golden one. Returns what does not fit.
    #[must_use]
    pub fn check(&self, observed: &Observed, tolerance: Tolerance) -> Vec<String> {
        let mut wrong = Vec::new();
        let same = compared(&observed.tokens, &self.ids, &self.margins, tolerance, &mut wrong);
        close("warped logprob", &observed.logprobs[..same], &self.warped_logprobs[..same], tolerance, &mut wrong);
        wrong.into_iter().map(|what| format!("{} {:?}: {what}", self.prompt_case, self.params)).collect()
    }
}

/// How many tokens are equal, from the first on. The first that differs must be a near-tie.
pub(crate) fn compared(
    ours: &[u32],
    golden: &[u32],
    margins: &[f32],
    tolerance: Tolerance,
    wrong: &mut Vec<String>,
) -> usize {
    if ours.len() > golden.len() {
        wrong.push(format!("{} tokens, expected {}", ours.len(), golden.len()));
    }
    let same = ours.iter().zip(golden).take_while(|(ours, golden)| ours == golden).count();
    if same < golden.len() && margins[same] > tolerance.margin {
        let (found, expected, margin) = (ours.get(same), golden[same], margins[same]);
        wrong.push(format!("token {same}: expected {expected}, found {found:?}, margin {margin}"));
    }
    same
}

pub(crate) fn close(what: &str, ours: &[f32], golden: &[f32], tolerance: Tolerance, wrong: &mut Vec<String>) {
    if ours.len() != golden.len() {
        return wrong.push(format!("{what}: {} values, expected {}", ours.len(), golden.len()));
    }
    let off = |(ours, golden): (&f32, &f32)| (ours - golden).is_nan() || (ours - golden).abs() > tolerance.value;
    if let Some(at) = ours.iter().zip(golden).position(off) {
        wrong.push(format!("{what} {at}: expected {}, found {}", golden[at], ours[at]));
    }
}

#[cfg(test)]
mod tests {
    use crate::goldens::Golden;
    use crate::goldens::check::{Observed, Tolerance};

    /// What the golden implementation itself would have observed.
    fn golden() -> (crate::goldens::Case, Observed) {
        let mut golden = Golden::of("tiny-falcon-7b");
        let case = golden.cases.swap_remove(2);
        let observed = Observed {
            prompt_logprobs: case.prompt_logprobs.iter().copied().flatten().collect(),
            tokens: case.greedy.ids.clone(),
            logprobs: case.greedy.logprobs.clone(),
            logits: vec![case.prefill_logits.clone()],
        };
        (case, observed)
    }

    #[test]
    fn the_golden_passes_and_whatever_is_off_does_not() {
        let (case, observed) = golden();
        assert_eq!(case.check_greedy(&observed, Tolerance::F32), [""; 0]);
        let off = |change: fn(&mut Observed)| {
            let mut observed = observed.clone();
            change(&mut observed);
            case.check_greedy(&observed, Tolerance::F32).len()
        };
        assert_eq!(off(|o| o.prompt_logprobs[3] += 0.0021), 1);
        assert_eq!(off(|o| o.prompt_logprobs[3] = f32::NAN), 1);
        assert_eq!(off(|o| o.prompt_logprobs.truncate(2)), 1);
        assert_eq!(off(|o| o.logits[0][7] -= 0.0021), 1);
        assert_eq!(off(|o| o.tokens[1] ^= 1), 1);
        assert_eq!(off(|o| o.tokens.truncate(2)), 1);
        assert_eq!(off(|o| o.tokens.push(1)), 1);
        assert_eq!(off(|o| o.logprobs[2] += 0.0021), 1);
    }
}
