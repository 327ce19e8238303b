//! What the times of a run amount to.

use crate::load::{Outcome, Ran};
use std::fmt;
use std::str::FromStr;

/// The figures of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// From the first request to the last answer, in seconds.
    pub duration: f64,
    /// Requests that were answered to the end.
    pub completed: usize,
    /// Requests that failed.
    pub failed: usize,
    /// Tokens of the prompts that were answered.
    pub input_tokens: u64,
    /// Of these, tokens that the server did not compute anew.
    pub cached_tokens: u64,
    /// Tokens of the answers.
    pub output_tokens: u64,
    /// Answered requests whose tokens the server counted itself. In others, each message with text counts as one token.
    pub counted_by_server: usize,
    /// Answered requests that met the service levels; `None` without any.
    pub good: Option<usize>,
    /// The most tokens that came within one second.
    pub output_tokens_per_s_max: f64,
    /// The most requests that were under way at once.
    pub concurrency_max: usize,
    /// Milliseconds to the first token.
    pub ttft: Distribution,
    /// Milliseconds per token after the first, one value for each request.
    pub tpot: Distribution,
    /// Milliseconds between messages with tokens.
    pub itl: Distribution,
    /// Milliseconds from the request to the end of its answer.
    pub e2el: Distribution,
    /// Milliseconds of the whole request per token of its answer.
    pub per_token: Distribution,
}

impl Metrics {
    /// Of a run, held against `slos`.
    #[must_use]
    pub fn of(ran: &Ran, slos: &[Slo]) -> Self {
        let completed: Vec<&Outcome> = ran.outcomes.iter().filter(|outcome| outcome.error.is_none()).collect();
        let each = |figure: fn(&Outcome) -> Option<f64>| {
            Distribution::of(completed.iter().filter_map(|outcome| figure(outcome)).collect())
        };
        let sum = |figure: fn(&Outcome) -> u32| completed.iter().map(|outcome| u64::from(figure(outcome))).sum();
        let good = || completed.iter().filter(|outcome| slos.iter().all(|slo| slo.is_met(outcome))).count();
        Self {
            duration: ran.duration,
            completed: completed.len(),
            failed: ran.outcomes.len() - completed.len(),
            input_tokens: sum(|outcome| outcome.counts.input_tokens.unwrap_or(0)),
            cached_tokens: sum(|outcome| outcome.counts.cached_tokens.unwrap_or(0)),
            output_tokens: sum(|outcome| outcome.output_tokens),
            counted_by_server: completed.iter().filter(|outcome| outcome.counts.output_tokens.is_some()).count(),
            good: (!slos.is_empty()).then(good),
            output_tokens_per_s_max: tokens_by_second(ran).into_iter().fold(0.0, f64::max),
            concurrency_max: concurrency(ran).into_iter().map(|(_, running)| running).max().unwrap_or(0),
            ttft: each(ttft_ms),
            tpot: each(tpot_ms),
            itl: Distribution::of(completed.iter().flat_map(|outcome| itls_ms(outcome)).collect()),
            e2el: each(|outcome| Some(outcome.latency * 1e3)),
            per_token: each(per_token_ms),
        }
    }

    /// `count` per second of the run; 0 if it took no time.
    #[must_use]
    pub fn rate(&self, count: f64) -> f64 {
        if self.duration > 0.0 { count / self.duration } else { 0.0 }
    }

    /// Tokens of answers per second.
    #[must_use]
    pub fn output_throughput(&self) -> f64 {
        self.rate(self.output_tokens as f64)
    }
}

/// How a figure is distributed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Ascending.
    sorted: Vec<f64>,
}

impl Distribution {
    /// Of some values.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// The values, ascending.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.sorted
    }

    /// 0 if there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.sorted.is_empty() { 0.0 } else { self.sorted.iter().sum::<f64>() / self.sorted.len() as f64 }
    }

    /// The deviation of the values themselves, not of a population that they stand for.
    #[must_use]
    pub fn std(&self) -> f64 {
        let mean = self.mean();
        Self::of(self.sorted.iter().map(|value| (value - mean).powi(2)).collect()).mean().sqrt()
    }

    /// The value below which `percent` of all lie, between neighbours in proportion; 0 if there is none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return 0.0 };
        let place = last as f64 * percent / 100.0;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        self.sorted[low] + (self.sorted[high] - self.sorted[low]) * place.fract()
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }
}

/// Milliseconds to the first token.
fn ttft_ms(outcome: &Outcome) -> Option<f64> {
    Some(f64::from(outcome.arrivals.first()?.at) * 1e3)
}

/// Milliseconds per token after the first.
fn tpot_ms(outcome: &Outcome) -> Option<f64> {
    let after_first = outcome.output_tokens.checked_sub(1).filter(|&tokens| tokens > 0)?;
    Some((outcome.latency * 1e3 - ttft_ms(outcome)?) / f64::from(after_first))
}

fn per_token_ms(outcome: &Outcome) -> Option<f64> {
    (outcome.output_tokens > 0).then(|| outcome.latency * 1e3 / f64::from(outcome.output_tokens))
}

/// Milliseconds between messages with tokens.
pub(crate) fn itls_ms(outcome: &Outcome) -> impl Iterator<Item = f64> {
    outcome.arrivals.windows(2).map(|pair| f64::from(pair[1].at - pair[0].at) * 1e3)
}

/// Tokens that came in each second of a run.
pub(crate) fn tokens_by_second(ran: &Ran) -> Vec<f64> {
    let mut seconds = vec![0.0; ran.duration.ceil() as usize];
    for outcome in &ran.outcomes {
        for arrival in &outcome.arrivals {
            let second = (outcome.start + f64::from(arrival.at)) as usize;
            // The last token may come in the instant in which the run ends.
            if let Some(tokens) = seconds.get_mut(second) {
                *tokens += f64::from(arrival.tokens);
            }
        }
    }
    seconds
}

/// How many requests were under way: times at which that changed, in seconds, with the number from then on.
pub(crate) fn concurrency(ran: &Ran) -> Vec<(f64, usize)> {
    let took_time = || ran.outcomes.iter().filter(|outcome| outcome.latency > 0.0);
    let starts = took_time().map(|outcome| (outcome.start, 1));
    let ends = took_time().map(|outcome| (outcome.start + outcome.latency, -1));
    let mut changes: Vec<(f64, i64)> = starts.chain(ends).collect();
    // At the same time, ends come first.
    changes.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let running = changes.into_iter().scan(0, |running, (time, change)| {
        *running += change;
        Some((time, usize::try_from(*running).expect("an end follows its start")))
    });
    running.collect()
}

/// A service level for each request: a figure that must not exceed so many milliseconds. Written `ttft:200`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    figure: SloFigure,
    limit_ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SloFigure {
    Ttft,
    Tpot,
    E2el,
}

const SLO_FIGURES: [(&str, SloFigure); 3] =
    [("ttft", SloFigure::Ttft), ("tpot", SloFigure::Tpot), ("e2el", SloFigure::E2el)];

/// Something else than a service level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no service level: expected ttft, tpot or e2el with milliseconds, as in ttft:200")]
pub struct SloError(String);

impl Slo {
    /// Whether a request that was answered keeps to it. One without a value, since it had a single token, does.
    fn is_met(&self, outcome: &Outcome) -> bool {
        let value = match self.figure {
            SloFigure::Ttft => ttft_ms(outcome),
            SloFigure::Tpot => tpot_ms(outcome),
            SloFigure::E2el => Some(outcome.latency * 1e3),
        };
        value.is_none_or(|value| value <= self.limit_ms)
    }
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(given: &str) -> Result<Self, SloError> {
        let parse = || {
            let (name, limit) = given.split_once(':')?;
            let (_, figure) = SLO_FIGURES.into_iter().find(|(known, _)| *known == name)?;
            let limit_ms = limit.parse().ok().filter(|&limit: &f64| limit > 0.0)?;
            Some(Self { figure, limit_ms })
        };
        parse().ok_or_else(|| SloError(given.to_owned()))
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = SLO_FIGURES.iter().find(|(_, figure)| *figure == self.figure).expect("all are listed");
        write!(f, "{name}:{}", self.limit_ms)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::target::{Arrival, Counts};

    /// A request sent at `start` whose messages of one token came at the given seconds after it.
    pub(crate) fn outcome(start: f64, times: &[f32]) -> Outcome {
        Outcome {
            start,
            latency: times.last().map_or(0.0, |&at| f64::from(at)),
            arrivals: times.iter().map(|&at| Arrival { at, tokens: 1 }).collect(),
            ids: Vec::new(),
            counts: Counts { input_tokens: Some(10), ..Counts::default() },
            output_tokens: u32::try_from(times.len()).expect("few"),
            error: None,
        }
    }

    pub(crate) fn ran() -> Ran {
        let failed = Outcome { error: Some("gone".to_owned()), ..outcome(0.0, &[]) };
        Ran { outcomes: vec![outcome(0.0, &[0.5, 0.75, 1.0]), outcome(0.25, &[0.25, 1.25]), failed], duration: 1.5 }
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let distribution = Distribution::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(distribution.mean(), 2.5);
        assert_eq!(
            (distribution.percentile(0.0), distribution.median(), distribution.percentile(100.0)),
            (1.0, 2.5, 4.0)
        );
        assert!((distribution.percentile(90.0) - 3.7).abs() < 1e-12);
        assert!((distribution.std() - 1.25f64.sqrt()).abs() < 1e-12);
        let none = Distribution::default();
        assert_eq!((none.mean(), none.std(), none.percentile(99.0)), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_run_is_summed_up() {
        let metrics = Metrics::of(&ran(), &[]);
        assert_eq!((metrics.completed, metrics.failed, metrics.good), (2, 1, None));
        assert_eq!((metrics.input_tokens, metrics.output_tokens), (20, 5));
        assert_eq!(metrics.ttft.values(), [250.0, 500.0]);
        assert_eq!(metrics.tpot.values(), [250.0, 1000.0]);
        assert_eq!(metrics.itl.values(), [250.0, 250.0, 1000.0]);
        assert_eq!(metrics.e2el.values(), [1000.0, 1250.0]);
        assert_eq!(metrics.per_token.values(), [1000.0 / 3.0, 625.0]);
        assert_eq!(tokens_by_second(&ran()), [3.0, 2.0]);
        assert_eq!(metrics.output_tokens_per_s_max, 3.0);
        assert_eq!(metrics.concurrency_max, 2);
        assert!((metrics.output_throughput() - 5.0 / 1.5).abs() < 1e-12);
    }

    #[test]
    fn goodput_counts_requests_that_meet_all_levels() {
        let good = |slos: &[&str]| {
            let slos: Vec<Slo> = slos.iter().map(|slo| slo.parse().expect("well formed")).collect();
            Metrics::of(&ran(), &slos).good
        };
        assert_eq!(good(&["ttft:500"]), Some(2));
        assert_eq!(good(&["ttft:499"]), Some(1));
        assert_eq!(good(&["ttft:499", "tpot:999"]), Some(0));
        assert_eq!(good(&["e2el:1000"]), Some(1));
        assert_eq!("tpot:50".parse::<Slo>().expect("well formed").to_string(), "tpot:50");
        for wrong in ["ttft", "ttft:", "ttft:-1", "itl:3", ""] {
            assert!(wrong.parse::<Slo>().is_err(), "{wrong}");
        }
    }
}
