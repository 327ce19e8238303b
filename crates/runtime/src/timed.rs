//! Tokens that say when they were sampled. The rank without a model answers with them, so that a benchmark can tell how long they
//! were under way.

use crate::{EngineError, demo};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};
use text::Tokenizer;

/// Whole words and parts of words in the demo model's tokenizer, each with a text of its own.
const TOKENS: Range<u32> = 1_000..3_048;

/// One token stands for so much of the time.
pub const TICK: Duration = Duration::from_micros(500);

/// As many ticks make a turn, after which the same token comes again.
pub const TICKS: usize = TOKENS.end as usize - TOKENS.start as usize;

/// The token of this moment.
pub(crate) fn now() -> u32 {
    TOKENS.start + u32::try_from(tick()).expect("fewer than tokens")
}

/// How many ticks ago this token was that of the moment, less than [`TICKS`]; `None` if it is none of them.
#[must_use]
pub fn age_ticks(token: u32) -> Option<usize> {
    TOKENS.contains(&token).then(|| (tick() + TICKS - (token - TOKENS.start) as usize) % TICKS)
}

/// The tokens by their texts, in the demo model's tokenizer.
///
/// # Errors
///
/// [`EngineError`], if that is not there.
pub fn by_text() -> Result<HashMap<String, u32>, EngineError> {
    let tokenizer = Tokenizer::open(&demo::model_dir()?)?;
    Ok(TOKENS.map(|token| (tokenizer.decode(&[token], false), token)).collect())
}

/// All processes of a machine have the same clock. One that is set meanwhile makes a turn of false ages.
fn tick() -> usize {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now.as_micros() / TICK.as_micros() % TICKS as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_this_moment_is_young() {
        // However long this takes, ages are counted from it.
        let first = now();
        let ages: Vec<usize> = (0..1000).map(|_| age_ticks(first).expect("one of them")).collect();
        assert!(ages.iter().all(|&age| age < TICKS));
        assert_eq!((age_ticks(TOKENS.start - 1), age_ticks(TOKENS.end)), (None, None));
    }

    #[test]
    fn each_has_a_text_of_its_own() {
        let tokens = by_text().expect("the demo's tokenizer");
        assert_eq!(tokens.len(), TICKS);
        for (text, &token) in &tokens {
            assert!(!text.is_empty() && !text.contains(['\n', '\u{fffd}']), "{token}: {text:?}");
        }
    }
}
