//! Random prompts of given lengths.

use super::{Request, Vocabulary};
use crate::random::normal;
use fastrand::Rng;
use std::fmt;

/// The longest prompt part or answer, in tokens: longer than any Falcon's context, and short enough to be made.
pub(super) const LENGTH_MAX: u32 = 1 << 20;

/// Lengths of prompts and answers, in tokens. Written `IN/OUT`, or `SHARED+IN/OUT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// Tokens at the start of the prompt that all prompts share.
    pub shared: u32,
    /// Tokens of the prompt after these.
    pub input: Length,
    /// Tokens of the answer.
    pub output: Length,
}

/// A distribution of lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Always the same: `128`.
    Fixed(u32),
    /// Uniform between the two, both included: `64-512`.
    Uniform(u32, u32),
    /// `normal:MEAN:DEVIATION`.
    Normal(f64, f64),
    /// Log-normal, with long tails, as lengths of chats have: `log:MEDIAN:SIGMA`.
    LogNormal(f64, f64),
}

impl Lengths {
    pub(super) fn parse(given: &str) -> Option<Self> {
        let (input, output) = given.split_once('/')?;
        let (shared, input) = input.split_once('+').unwrap_or(("0", input));
        let shared = shared.parse().ok().filter(|&tokens| tokens <= LENGTH_MAX)?;
        Some(Self { shared, input: Length::parse(input)?, output: Length::parse(output)? })
    }

    pub(super) fn requests(&self, count: usize, vocabulary: &Vocabulary, seed: u64, run: u64) -> Vec<Request> {
        let mut random = Rng::with_seed(seed.rotate_left(32).wrapping_add(run));
        let request = |_| {
            let (own, answer) = (self.input.draw(&mut random), self.output.draw(&mut random));
            Request::of_length(vocabulary.prompt(self.shared as usize, own, seed, &mut random), answer)
        };
        (0..count).map(request).collect()
    }
}

impl Length {
    fn parse(given: &str) -> Option<Self> {
        let tokens = |text: &str| text.parse().ok().filter(|tokens| (1..=LENGTH_MAX).contains(tokens));
        let positive = |text: &str| text.parse().ok().filter(|&number: &f64| number > 0.0 && number.is_finite());
        match given.split(':').collect::<Vec<_>>()[..] {
            ["normal", mean, deviation] => Some(Self::Normal(positive(mean)?, positive(deviation)?)),
            ["log", median, sigma] => Some(Self::LogNormal(positive(median)?, positive(sigma)?)),
            [range] => match range.split_once('-') {
                Some((low, high)) => {
                    let (low, high) = (tokens(low)?, tokens(high)?);
                    (low <= high).then_some(Self::Uniform(low, high))
                }
                None => tokens(range).map(Self::Fixed),
            },
            _ => None,
        }
    }

    /// A length from 1 to [`LENGTH_MAX`].
    fn draw(self, random: &mut Rng) -> usize {
        let drawn = match self {
            Self::Fixed(tokens) => f64::from(tokens),
            Self::Uniform(low, high) => f64::from(random.u32(low..=high)),
            Self::Normal(mean, deviation) => mean + deviation * normal(random),
            Self::LogNormal(median, sigma) => median * (sigma * normal(random)).exp(),
        };
        drawn.round().clamp(1.0, LENGTH_MAX.into()) as usize
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { shared: 0, input, output } => write!(f, "{input}/{output}"),
            Self { shared, input, output } => write!(f, "{shared}+{input}/{output}"),
        }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(f, "{tokens}"),
            Self::Uniform(low, high) => write!(f, "{low}-{high}"),
            Self::Normal(mean, deviation) => write!(f, "normal:{mean}:{deviation}"),
            Self::LogNormal(median, sigma) => write!(f, "log:{median}:{sigma}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Prompt;

    #[test]
    fn prompts_have_their_lengths_and_share_what_they_should() {
        let vocabulary = Vocabulary::Ids((10..500).collect());
        let lengths = Lengths::parse("32+4-9/7").expect("well formed");
        let made = |seed, run| lengths.requests(50, &vocabulary, seed, run);
        let requests = made(3, 1);
        assert_eq!(requests, made(3, 1));
        let ids = |request: &Request| match &request.prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => panic!("{text}"),
        };
        let first = ids(&requests[0]);
        for request in &requests {
            let prompt = ids(request);
            assert!((36..=41).contains(&prompt.len()), "{}", prompt.len());
            assert_eq!(prompt[..32], first[..32]);
            assert_eq!((request.parameters.max_new_tokens, request.ignore_eos), (7, true));
        }
        assert!(requests[1..].iter().all(|request| ids(request)[32..] != first[32..]));
        let (other_run, other_seed) = (ids(&made(3, 2)[0]), ids(&made(4, 1)[0]));
        assert!(other_run[..32] == first[..32] && other_run[32..] != first[32..]);
        assert!(other_seed[..32] != first[..32] && other_seed[32..] != first[32..]);
        let Prompt::Text(text) = &lengths.requests(1, &Vocabulary::Words, 3, 0)[0].prompt else { panic!() };
        assert!((36..=41).contains(&text.split_whitespace().count()), "{text}");
    }

    #[test]
    fn lengths_follow_their_distributions() {
        let mut random = Rng::with_seed(1);
        let mut drawn = |length: Length| -> Vec<usize> {
            let mut drawn: Vec<_> = (0..20_001).map(|_| length.draw(&mut random)).collect();
            drawn.sort_unstable();
            drawn
        };
        let uniform = drawn(Length::Uniform(3, 5));
        assert_eq!((uniform[0], uniform[10_000], uniform[20_000]), (3, 4, 5));
        let normal = drawn(Length::Normal(100.0, 10.0));
        assert!((99..=101).contains(&normal[10_000]) && (108..=112).contains(&normal[16_827]), "{}", normal[16_827]);
        let log = drawn(Length::LogNormal(100.0, 1.0));
        assert!((96..=104).contains(&log[10_000]) && (258..=286).contains(&log[16_827]), "{}", log[16_827]);
        // No draw is longer than what can be made.
        assert_eq!(drawn(Length::LogNormal(1e9, 50.0))[20_000], LENGTH_MAX as usize);
    }
}
