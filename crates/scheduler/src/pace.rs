//! How much of prompts may run beside sequences that wait for their next token.

/// Prompt tokens that a step may always run, so that prompts get on even where the bound cannot be held.
const ROWS_MIN: usize = 4;

/// The share of the bound that is aimed at. The rest is for steps that take longer than those before them.
const AIM: f64 = 0.85;

/// The weight of a new measurement.
const WEIGHT: f64 = 0.25;

/// A step that takes more than this share of the bound is late: what was aimed at was missed.
const LATE: f64 = 0.92;

/// Of two late steps at most so far apart, the second had too many prompt tokens. One alone may be a hiccup.
const STEPS_APART: usize = 16;

/// After so many steps that were not late, more prompt tokens are tried than were once too many.
const STEPS_TO_TRUST: usize = 256;

/// Keeps the time of a step, and so the time between two tokens of a sequence, below a bound: by the number of prompt tokens
/// that run beside sequences that decode. It learns from the times of steps alone what such a token costs: a step
/// without them takes the *quiet* time, and each of them adds to that.
///
/// What a token costs is no line: devices take rows by the tile, and the next tile may cost as much as all before it. So
/// where as many tokens as should have fitted were late, fewer are allowed for long, whatever the average says.
///
/// It has no clock: whoever drives the scheduler measures.
#[derive(Clone, Debug)]
pub struct Pace {
    bound_us: f64,
    rows_max: usize,
    /// A step in which nothing but the next tokens is computed.
    quiet_us: Option<f64>,
    /// What one prompt token adds to that.
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

impl Pace {
    /// A pace that keeps steps below `bound_us` microseconds; no step runs more than `rows_max` tokens.
    #[must_use]
    pub fn new(bound_us: u64, rows_max: usize) -> Self {
        let rows = ROWS_MIN.min(rows_max);
        let (ceiling, rise, steps, in_time) = (rows_max, 1, 0, STEPS_APART);
        Self { bound_us: bound_us as f64, rows_max, quiet_us: None, row_us: None, rows, ceiling, rise, steps, in_time }
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
            let quiet_us = self.quiet_us.get_or_insert(step_us);
            *quiet_us += WEIGHT * (step_us - *quiet_us);
        } else {
            // Before anything is known of quiet steps, they count as nothing: a prompt token seems the dearer for it.
            let row_us = ((step_us - self.quiet_us.unwrap_or(0.0)) / prompt_rows as f64).max(0.0);
            let known = self.row_us.get_or_insert(row_us);
            // Dearer counts at once, cheaper slowly; and a few rows say little about many.
            let weight = if row_us > *known { 1.0 } else { WEIGHT };
            *known += weight * (prompt_rows as f64 / self.rows as f64).min(1.0) * (row_us - *known);
            self.watch(prompt_rows, step_us > self.bound_us * LATE);
        }
        let row_us = self.row_us.unwrap_or(0.0);
        let room_us = self.bound_us * AIM - self.quiet_us.unwrap_or(0.0);
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
