//! What is counted and measured of steps and recoveries.

use super::{Histograms, Label, Register, TgiCounter, counts, host_time_family, time_family};
use coordinator::{Recovery, StepRecord};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Why sequences join others, by a name of TGI's: prompts are computed in chunks beside the next tokens of others.
const CHUNKING: &str = "chunking";

/// What the time of a recovery goes to.
const PHASES: [&str; 4] = ["ending", "waiting", "loading", "computing"];

/// What is counted of steps.
pub(super) struct Steps {
    inference_count: Family<Label<&'static str>, TgiCounter>,
    inference_success: Family<Label<&'static str>, TgiCounter>,
    inference_duration: Histograms<Label<&'static str>>,
    forward_duration: Histograms<Label<&'static str>>,
    decode_duration: Histograms<Label<&'static str>>,
    filter_duration: Histograms<Label<&'static str>>,
    concat_duration: Histograms<Label<&'static str>>,
    concat: Family<Label<&'static str>, TgiCounter>,
    next_size: Histogram,
    time: Histograms<Label<&'static str>>,
    batch_size: Histogram,
    rows: Histogram,
    rank_time: Histograms<Label<u64>>,
    rank_all_reduce_time: Histograms<Label<u64>>,
    recoveries: Counter,
    read_again: Counter,
    failures: Counter,
    recovery_time: Histograms<Label<&'static str>>,
}

impl Steps {
    pub(super) fn new(register: &mut Register<'_>) -> Self {
        let steps = Self {
            inference_count: register.add("tgi_batch_inference_count", "Steps", Family::default()),
            inference_success: register.add("tgi_batch_inference_success", "Steps that succeeded", Family::default()),
            inference_duration: register.add(
                "tgi_batch_inference_duration",
                "Seconds of a step, until all ranks have answered",
                time_family(),
            ),
            forward_duration: register.add(
                "tgi_batch_forward_duration",
                "Of these, those in which the slowest rank computed",
                time_family(),
            ),
            decode_duration: register.add(
                "tgi_batch_decode_duration",
                "Seconds in which the tokens of a step were handed out",
                host_time_family(),
            ),
            filter_duration: register.add(
                "tgi_batch_filter_duration",
                "Seconds in which the scheduler took in the results of a step",
                host_time_family(),
            ),
            concat_duration: register.add(
                "tgi_batch_concat_duration",
                "Seconds in which a step was planned and sent",
                host_time_family(),
            ),
            concat: register.add("tgi_batch_concat", "Steps with sequences that joined others", Family::default()),
            next_size: register.add("tgi_batch_next_size", "Sequences that joined in a step", Histogram::new(counts())),
            time: register.seconds("peregrine_step_time", "Time of a step, by its rows", time_family()),
            batch_size: register.add("peregrine_step_sequences", "Sequences of a step", Histogram::new(counts())),
            rows: register.add("peregrine_rows_per_step", "Tokens that a step computes", Histogram::new(counts())),
            rank_time: register.seconds(
                "peregrine_rank_step_time",
                "Time of a step in which a rank's device worked",
                time_family(),
            ),
            rank_all_reduce_time: register.seconds(
                "peregrine_rank_all_reduce_time",
                "Time of a step in which a rank was in all-reduces",
                host_time_family(),
            ),
            recoveries: register.add("peregrine_recoveries", "Times that the ranks served again", Counter::default()),
            read_again: register.add(
                "peregrine_recovery_read_bytes",
                "Bytes of weights that ranks read again, to serve again",
                Counter::default(),
            ),
            failures: register.add("peregrine_rank_failures", "Failures of the ranks", Counter::default()),
            recovery_time: register.seconds(
                "peregrine_recovery_time",
                "Time until the ranks served again, by what it went to",
                time_family(),
            ),
        };
        let _ = steps.concat.get_or_create(&[("reason", CHUNKING)]);
        for phase in PHASES {
            let _ = steps.recovery_time.get_or_create(&[("phase", phase)]);
        }
        steps
    }

    /// The ranks have failed.
    pub(super) fn failed(&self) {
        self.failures.inc();
    }

    /// The ranks serve again.
    pub(super) fn recovered(&self, recovery: &Recovery) {
        let Self { recoveries, read_again, recovery_time, .. } = self;
        recoveries.inc();
        read_again.inc_by(recovery.read_bytes);
        let Recovery { ending, waiting, loading, computing, .. } = *recovery;
        for (phase, time) in PHASES.into_iter().zip([ending, waiting, loading, computing]) {
            recovery_time.get_or_create(&[("phase", phase)]).observe(time.as_secs_f64());
        }
    }

    /// A step is done.
    pub(super) fn observe(&self, step: &StepRecord, delivering: Duration) {
        let (method, kind) = match (step.prompt_rows, step.rows) {
            (0, _) => ("decode", "decode"),
            (prompt, rows) if prompt == rows => ("prefill", "prefill"),
            _ => ("prefill", "mixed"),
        };
        let method = &[("method", method)];
        self.inference_count.get_or_create(method).inc();
        self.inference_success.get_or_create(method).inc();
        let slowest = step.ranks.iter().map(|rank| rank.device).max().unwrap_or_default();
        for (family, time) in [
            (&self.inference_duration, step.taken),
            (&self.forward_duration, slowest),
            (&self.decode_duration, delivering),
            (&self.filter_duration, step.committing),
            (&self.concat_duration, step.planning),
        ] {
            family.get_or_create(method).observe(time.as_secs_f64());
        }
        if step.new_sequences > 0 {
            self.next_size.observe(step.new_sequences as f64);
            if step.sequences > step.new_sequences {
                self.concat.get_or_create(&[("reason", CHUNKING)]).inc();
            }
        }
        self.time.get_or_create(&[("kind", kind)]).observe(step.taken.as_secs_f64());
        self.batch_size.observe(step.sequences as f64);
        self.rows.observe(step.rows as f64);
        for (rank, times) in (0..).zip(step.ranks.iter()) {
            let rank = &[("rank", rank)];
            self.rank_time.get_or_create(rank).observe(times.device.as_secs_f64());
            if let Some(time) = times.all_reduce {
                self.rank_all_reduce_time.get_or_create(rank).observe(time.as_secs_f64());
            }
        }
    }
}
