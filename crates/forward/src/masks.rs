//! Which tokens the rows of a step may choose: those that a grammar allows, without the ends of a sequence that has to go on.

use std::collections::HashMap;
use step::{NewSequence, SampleMask, SeqId, StepId};

/// The masks of one step.
pub(crate) struct Masks<'a> {
    grammars: HashMap<SeqId, &'a [u32]>,
    /// Of sequences of which some row has to go on.
    going_on: HashMap<SeqId, Vec<u32>>,
}

impl<'a> Masks<'a> {
    /// `masks` may be those of other steps, too.
    pub(crate) fn new(step: StepId, masks: &'a [SampleMask]) -> Self {
        let of_step = masks.iter().filter(|mask| mask.step == step);
        Self { grammars: of_step.map(|mask| (mask.seq, &mask.words[..])).collect(), going_on: HashMap::new() }
    }

    /// Prepares the masks of a sequence whose tokens from `position` on are chosen, of a vocabulary of `vocab` tokens.
    pub(crate) fn prepare(&mut self, spec: &NewSequence, position: usize, vocab: usize) {
        if goes_on(spec, position) {
            let grammar = self.grammars.get(&spec.seq);
            let mut words = grammar.map_or_else(|| vec![u32::MAX; vocab.div_ceil(32)], |words| words.to_vec());
            for &end in &spec.ends {
                if let Some(word) = words.get_mut(end as usize / 32) {
                    *word &= !(1 << (end % 32));
                }
            }
            self.going_on.insert(spec.seq, words);
        }
    }

    /// The mask under which the token at `position` is chosen, as in [`SampleMask::words`]; `None`: any may be.
    pub(crate) fn of(&self, spec: &NewSequence, position: usize) -> Option<&[u32]> {
        let going_on = self.going_on.get(&spec.seq).filter(|_| goes_on(spec, position));
        going_on.map(Vec::as_slice).or_else(|| self.grammars.get(&spec.seq).copied())
    }
}

/// The token at `position` must not end the sequence.
fn goes_on(spec: &NewSequence, position: usize) -> bool {
    position < spec.prompt_len + spec.min_tokens && !spec.ends.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use step::SamplingParams;

    fn sequence(min_tokens: usize, ends: &[u32]) -> NewSequence {
        NewSequence {
            seq: SeqId(3),
            tokens: vec![1; 5],
            prompt_len: 4,
            sampling: SamplingParams::GREEDY,
            min_tokens,
            ends: ends.to_vec(),
            prompt_logprobs: false,
            top_n: 0,
            return_logits: false,
        }
    }

    /// The masks at positions 4 to 7 of a vocabulary of 40.
    fn masks(spec: &NewSequence, grammar: &[SampleMask]) -> Vec<Option<Vec<u32>>> {
        let mut masks = Masks::new(StepId(9), grammar);
        masks.prepare(spec, 4, 40);
        (4..8).map(|position| masks.of(spec, position).map(<[u32]>::to_vec)).collect()
    }

    #[test]
    fn a_sequence_goes_on_until_it_has_its_least_tokens() {
        let without = Some(vec![!(1 << 11), !(1 << 1)]);
        // Id 64 is beyond the words, and 40 beyond the vocabulary within them.
        let of = |least| masks(&sequence(least, &[11, 33, 64]), &[]);
        assert_eq!(of(2), [without.clone(), without.clone(), None, None]);
        assert_eq!(of(1), [without, None, None, None]);
        assert_eq!(of(0), vec![None; 4]);
        assert_eq!(masks(&sequence(3, &[]), &[]), vec![None; 4]);
    }

    #[test]
    fn a_grammar_holds_beside_it() {
        let mask = |step, seq, word| SampleMask { step: StepId(step), seq: SeqId(seq), words: vec![word, word] };
        let grammar = [mask(8, 3, 1), mask(9, 3, 0b1010), mask(9, 4, 2)];
        let found = masks(&sequence(1, &[1]), &grammar);
        assert_eq!(
            found,
            [Some(vec![0b1000, 0b1010]), Some(vec![0b1010; 2]), Some(vec![0b1010; 2]), Some(vec![0b1010; 2])]
        );
    }
}
