//! Stop strings in text that arrives in pieces.

/// Finds the first of some stop strings, anywhere in a text, as soon as it is complete.
///
/// The match that is complete first wins; among those that end together the longest, which starts first. Text that may
/// be the beginning of a stop string is held until that is decided, so no character of a stop string gets out.
///
/// Each byte takes constant time on average, whatever the text and the stop strings (Knuth-Morris-Pratt).
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Pattern>,
    /// The end of the text that is the longest beginning of any stop string.
    held: String,
    found: Option<String>,
}

impl StopMatcher {
    /// Looks for `stops`. Empty ones are ignored.
    #[must_use]
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(AsRef::as_ref).filter(|stop| !stop.is_empty());
        Self { stops: stops.map(Pattern::new).collect(), held: String::new(), found: None }
    }

    /// Takes the text that follows and returns what is certain to be before any stop string. After a match nothing is.
    #[must_use]
    pub fn push(&mut self, text: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        for (at, byte) in text.bytes().enumerate() {
            // All of them must advance, so that the longest is known.
            let matches = self.stops.iter_mut().filter_map(|stop| stop.advance(byte).then_some(stop.text.len()));
            if let Some(length) = matches.max() {
                self.held.push_str(&text[..=at]);
                self.found = Some(self.held.split_off(self.held.len() - length));
                return std::mem::take(&mut self.held);
            }
        }
        self.held.push_str(text);
        let undecided = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        self.held.drain(..self.held.len() - undecided).collect()
    }

    /// The stop string that was found.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// The text ends: the held end of it, which has become no stop string.
    #[must_use]
    pub fn finish(&mut self) -> String {
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        std::mem::take(&mut self.held)
    }
}

#[derive(Clone, Debug)]
struct Pattern {
    text: Vec<u8>,
    /// For each proper beginning of `text`, by its last byte: the length of the longest shorter one that ends it.
    fallback: Vec<usize>,
    /// How many bytes of `text` the stream ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pattern = Self { text: text.as_bytes().to_vec(), fallback: vec![0], matched: 0 };
        // The pattern is matched against itself, one byte behind; each state is the fallback of the next.
        for &byte in &text.as_bytes()[1..] {
            let whole = pattern.advance(byte);
            debug_assert!(!whole, "a string does not end with itself one byte behind");
            pattern.fallback.push(pattern.matched);
        }
        pattern.matched = 0;
        pattern
    }

    /// Whether `byte` completes the text.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer by definition: the first end of any stop string, and the earliest start of those that end there.
    fn oracle(text: &str, stops: &[String]) -> Option<(usize, usize)> {
        (0..=text.len()).find_map(|end| {
            let ending =
                stops.iter().filter(|stop| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()));
            ending.map(|stop| (end - stop.len(), end)).min()
        })
    }

    fn random_text(rng: &mut fastrand::Rng, len: usize) -> String {
        // Few characters, some of several bytes with common ones, so that there are many near misses.
        (0..rng.usize(..=len)).map(|_| rng.choice(['a', 'a', 'b', 'é', 'è', '🦅']).unwrap()).collect()
    }

    #[test]
    fn any_cut_finds_what_the_oracle_finds_and_leaks_nothing() {
        for seed in 0..10_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let text = random_text(&mut rng, 30);
            let stops: Vec<String> = (0..rng.usize(..4)).map(|_| random_text(&mut rng, 5)).collect();
            let expected = oracle(&text, &stops);
            let (visible, stop) =
                expected.map_or((&*text, None), |(start, end)| (&text[..start], Some(&text[start..end])));

            let mut matcher = StopMatcher::new(&stops);
            let (mut released, mut rest) = (String::new(), &*text);
            while !rest.is_empty() {
                let cut = rest.char_indices().map(|(at, _)| at).nth(rng.usize(..6)).unwrap_or(rest.len());
                released += &matcher.push(&rest[..cut]);
                rest = &rest[cut..];
                assert!(visible.starts_with(&released), "seed {seed}: {released:?} of {text:?}, {stops:?}");
                let longest = stops.iter().map(String::len).max().unwrap_or(0);
                let pushed = text.len() - rest.len();
                assert!(
                    matcher.found().is_some() || pushed - released.len() <= longest,
                    "seed {seed}: too much is held"
                );
            }
            released += &matcher.finish();
            assert_eq!((&*released, matcher.found()), (visible, stop), "seed {seed}: {text:?}, {stops:?}");
        }
    }

    #[test]
    fn the_first_to_end_wins_then_the_longest() {
        let found = |stops: &[&str]| {
            let mut matcher = StopMatcher::new(stops);
            (matcher.push("xabcd"), matcher.found().map(str::to_owned))
        };
        assert_eq!(found(&["abcd", "bc"]), ("xa".into(), Some("bc".into())));
        assert_eq!(found(&["bc", "abc", "c"]), ("x".into(), Some("abc".into())));
        assert_eq!(found(&["", "de"]), ("xabc".into(), None));
    }

    #[test]
    fn long_stop_strings_take_linear_time() {
        let stop = "a".repeat(100_000) + "b";
        let mut matcher = StopMatcher::new(&[&stop]);
        for _ in 0..200 {
            assert!(matcher.push(&"a".repeat(500)).is_empty());
        }
        assert_eq!(matcher.push("ab").len(), 1);
        assert_eq!(matcher.found(), Some(&*stop));
    }
}
