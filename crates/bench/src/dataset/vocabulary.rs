//! The tokens of which random prompts are made.

use super::Prompt;
use fastrand::Rng;

/// Frequent English words. Most tokenizers have each of them, with the space before it, as one token.
const WORDS: &str = include_str!("../words.txt");

/// Tokens, or words, from which random prompts are drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// Token ids.
    Ids(Vec<u32>),
    /// Words that stand for tokens.
    Words,
}

impl Vocabulary {
    /// The text whose tokens make a vocabulary of ids.
    #[must_use]
    pub fn text() -> String {
        WORDS.split_whitespace().map(|word| format!(" {word}")).collect()
    }

    /// A prompt of `shared` tokens that follow from `seed` alone, and `own` tokens drawn from `random`.
    pub(super) fn prompt(&self, shared: usize, own: usize, seed: u64, random: &mut Rng) -> Prompt {
        let mut common = Rng::with_seed(!seed);
        let mut indices = |len: usize| -> Vec<usize> {
            let common = (0..shared).map(|_| common.usize(0..len));
            let own = (0..own).map(|_| random.usize(0..len));
            common.chain(own).collect()
        };
        match self {
            Self::Ids(ids) => Prompt::Ids(indices(ids.len()).into_iter().map(|index| ids[index]).collect()),
            Self::Words => {
                let words: Vec<&str> = WORDS.split_whitespace().collect();
                Prompt::Text(indices(words.len()).into_iter().flat_map(|index| [" ", words[index]]).collect())
            }
        }
    }
}
