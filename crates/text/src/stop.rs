//! Stop strings in text that arrives in pieces.

use std::sync::Arc;

/// Finds the first of some stop strings to be complete, anywhere in a text.
///
/// Each byte takes constant time on average, whatever the text and the stop strings (Knuth-Morris-Pratt). Clones share the stop
/// strings, with what was prepared for them.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Arc<[Pattern]>,
    /// How many bytes of each the text ends with.
    matched: Vec<usize>,
}

impl StopMatcher {
    /// Looks for `stops`. Empty ones are ignored.
    #[must_use]
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(AsRef::as_ref).filter(|stop| !stop.is_empty());
        let stops: Arc<[Pattern]> = stops.map(Pattern::new).collect();
        Self { matched: vec![0; stops.len()], stops }
    }

    /// Takes the text that follows. If a stop string is complete in it, returns where the first one ends; what comes after that
    /// is not looked at.
    #[must_use]
    pub fn push(&mut self, text: &str) -> Option<StopMatch> {
        for (at, byte) in text.bytes().enumerate() {
            // All of them must advance. Of several that end here the longest begins first.
            let stops = self.stops.iter().zip(&mut self.matched);
            let complete = stops.filter_map(|(stop, matched)| {
                *matched = stop.advance(*matched, byte);
                (*matched == stop.text.len()).then_some(*matched)
            });
            if let Some(len) = complete.max() {
                return Some(StopMatch { end: at + 1, len });
            }
        }
        None
    }

    /// Takes the text that follows, in which no stop string counts. One that only begins there is found later.
    pub fn pass(&mut self, mut text: &str) {
        while let Some(found) = self.push(text) {
            text = &text[found.end..];
        }
        for (stop, matched) in self.stops.iter().zip(&mut self.matched) {
            if *matched == stop.text.len() {
                *matched = stop.fallback[*matched - 1];
            }
        }
    }

    /// Bytes at the end of the text that may be the beginning of a stop string.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.matched.iter().copied().max().unwrap_or(0)
    }
}

/// A stop string that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopMatch {
    /// Offset behind it, in bytes of the text that was pushed last.
    pub end: usize,
    /// Its bytes, some of which may have been pushed before.
    pub len: usize,
}

#[derive(Debug)]
struct Pattern {
    text: Vec<u8>,
    /// For each proper beginning of `text`, by its last byte: the length of the longest shorter one that ends it.
    fallback: Vec<usize>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pattern = Self { text: text.as_bytes().to_vec(), fallback: vec![0] };
        // The pattern is matched against itself, one byte behind; each state is the fallback of the next.
        let mut matched = 0;
        for &byte in &text.as_bytes()[1..] {
            matched = pattern.advance(matched, byte);
            debug_assert!(matched < pattern.text.len(), "a string does not end with itself one byte behind");
            pattern.fallback.push(matched);
        }
        pattern
    }

    /// How many bytes of `text` a stream ends with that ended with `matched` of them, and now has `byte`.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        while matched > 0 && self.text.get(matched) != Some(&byte) {
            matched = self.fallback[matched - 1];
        }
        matched + usize::from(self.text[matched] == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer by definition: the first end of any stop string.
    fn oracle(text: &str, stops: &[String]) -> Option<usize> {
        let complete = |end: &usize| {
            let ending = |stop: &String| !stop.is_empty() && text.as_bytes()[..*end].ends_with(stop.as_bytes());
            stops.iter().any(ending)
        };
        (0..=text.len()).find(complete)
    }

    fn random_text(rng: &mut fastrand::Rng, len: usize) -> String {
        // Few characters, some of several bytes with common ones, so that there are many near misses.
        (0..rng.usize(..=len)).map(|_| rng.choice(['a', 'a', 'b', 'é', 'è', '🦅']).unwrap()).collect()
    }

    #[test]
    fn any_cut_finds_what_the_oracle_finds() {
        for seed in 0..10_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let text = random_text(&mut rng, 30);
            let stops: Vec<String> = (0..rng.usize(..4)).map(|_| random_text(&mut rng, 5)).collect();
            let mut matcher = StopMatcher::new(&stops);
            let (mut found, mut rest) = (None, &*text);
            while found.is_none() && !rest.is_empty() {
                let cut = rest.char_indices().map(|(at, _)| at).nth(rng.usize(..6)).unwrap_or(rest.len());
                found = matcher.push(&rest[..cut]).map(|found| text.len() - rest.len() + found.end);
                rest = &rest[cut..];
            }
            assert_eq!(found, oracle(&text, &stops), "seed {seed}: {text:?}, {stops:?}");
        }
    }

    #[test]
    fn the_first_to_end_wins() {
        let found = |stops: &[&str]| StopMatcher::new(stops).push("xabcd").map(|found| (found.end, found.len));
        assert_eq!(found(&["abcd", "bc"]), Some((4, 2)));
        assert_eq!(found(&["bc", "abc", "c"]), Some((4, 3)));
        assert_eq!(found(&["", "de"]), None);
        assert_eq!(found(&[]), None);
        // It may go on behind a match.
        let mut matcher = StopMatcher::new(&["aa"]);
        let mut end = |text| matcher.push(text).map(|found| found.end);
        assert_eq!((end("xaa"), end("a"), end("ba"), end("a")), (Some(3), Some(1), None, Some(1)));
        let mut matcher = StopMatcher::new(&["abab"]);
        matcher.pass("ababxabab");
        assert_eq!((matcher.pending(), matcher.push("ab").map(|found| found.end)), (2, Some(2)));
        let mut matcher = StopMatcher::new(&["abc", "bd"]);
        assert_eq!((matcher.push("xab"), matcher.pending()), (None, 2));
        assert_eq!((matcher.push("x"), matcher.pending()), (None, 0));
    }

    #[test]
    fn long_stop_strings_take_linear_time() {
        let stop = "a".repeat(100_000) + "b";
        let mut matcher = StopMatcher::new(&[&stop]);
        for _ in 0..200 {
            assert_eq!(matcher.push(&"a".repeat(500)), None);
        }
        assert_eq!(matcher.pending(), 100_000);
        assert_eq!(matcher.push("abc"), Some(StopMatch { end: 2, len: 100_001 }));
    }
}
