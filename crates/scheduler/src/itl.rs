//! How many prompt tokens may run beside sequences that decode.

/// Prompt tokens that a step may always run, so that prefill makes progress even where the bound cannot be met.
const ROWS_MIN: usize = 4;

/// The target, as a share of the bound. The rest is a margin for steps that take longer than those before them.
const AIM: f64 = 0.85;

/// The weight of a new measurement.
const WEIGHT: f64 = 0.25;

/// A step that takes more than this share of the bound is late: it missed the target by too much.
const LATE: f64 = 0.92;

/// Two late steps within this many steps mean that the second had too many prompt tokens; a single one may be noise.
const STEPS_APART: usize = 16;

/// The ceiling rises again after this many steps that were not late.
const STEPS_TO_TRUST: usize = 256;

/// Keeps the inter-token latency of sequences that decode below a bound, by limiting how many prompt tokens run beside
/// them. It estimates two costs from measured step times: that of a decode-only step, and that of one more prompt token.
///
/// The cost is not linear: devices compute rows in tiles, and one more tile may cost as much as all before it. So after
/// late steps a ceiling limits the prompt tokens, whatever the estimate says, and rises slowly.
///
/// It has no clock: whoever drives the scheduler measures.
#[derive(Clone, Debug)]
pub struct ItlController {
    bound_us: f64,
    rows_max: usize,
    /// Time of a decode-only step.
    decode_us: Option<f64>,
    /// Time that one prompt token adds to that.
    row_us: Option<f64>,
    rows: usize,
    /// Beyond this, steps were late.
    ceiling: usize,
    /// By how much the ceiling rises next.
    rise: usize,
    /// Steps with prompt tokens since the ceiling changed.
    steps: usize,
    /// Steps with prompt tokens since the last late one.
    in_time: usize,
}

impl ItlController {
    /// A controller that keeps steps below `bound_us` microseconds; no step runs more than `rows_max` tokens.
    #[must_use]
    pub fn new(bound_us: u64, rows_max: usize) -> Self {
        let rows = ROWS_MIN.min(rows_max);
        let (ceiling, rise, steps, in_time) = (rows_max, 1, 0, STEPS_APART);
        Self { bound_us: bound_us as f64, rows_max, decode_us: None, row_us: None, rows, ceiling, rise, steps, in_time }
    }

    /// Prompt tokens that the next step may run beside sequences that decode.
    #[must_use]
    pub fn prompt_rows(&self) -> usize {
        self.rows
    }

    /// A step has taken `step_us` microseconds, in which it ran `prompt_rows` prompt tokens beside sequences that decode.
    pub fn observe(&mut self, prompt_rows: usize, step_us: u64) {
        let step_us = step_us as f64;
        if prompt_rows == 0 {
            let decode_us = self.decode_us.get_or_insert(step_us);
            *decode_us += WEIGHT * (step_us - *decode_us);
        } else {
            // Until a decode-only step was measured, all of a step's time is charged to its prompt tokens.
            let row_us = ((step_us - self.decode_us.unwrap_or(0.0)) / prompt_rows as f64).max(0.0);
            let known = self.row_us.get_or_insert(row_us);
            // A higher cost counts at once, a lower one slowly; and a few rows say little about many.
            let weight = if row_us > *known { 1.0 } else { WEIGHT };
            *known += weight * (prompt_rows as f64 / self.rows as f64).min(1.0) * (row_us - *known);
            self.watch(prompt_rows, step_us > self.bound_us * LATE);
        }
        let row_us = self.row_us.unwrap_or(0.0);
        let room_us = self.bound_us * AIM - self.decode_us.unwrap_or(0.0);
        let affordable = if room_us > 0.0 { room_us / row_us } else { 0.0 };
        // More only once it has been seen what as many as allowed cost. By nothing, anything is affordable.
        let most = if prompt_rows >= self.rows { self.rows * 2 } else { self.rows };
        let rows = if affordable < most as f64 { affordable as usize } else { most };
        self.rows = rows.min(self.ceiling).max(ROWS_MIN).min(self.rows_max);
    }

    /// Moves the ceiling: down by a quarter where steps are late, up by more and more where they are not.
    fn watch(&mut self, prompt_rows: usize, late: bool) {
        self.steps += 1;
        if late && self.in_time < STEPS_APART {
            self.ceiling = self.ceiling.min(prompt_rows * 3 / 4).max(ROWS_MIN);
            (self.rise, self.steps) = (1, 0);
        } else if self.steps >= STEPS_TO_TRUST {
            self.ceiling = (self.ceiling + self.rise).min(self.rows_max);
            (self.rise, self.steps) = (self.rise * 2, 0);
        }
        self.in_time = if late { 0 } else { self.in_time + 1 };
    }
}
