//! Steps on their way: which have ended, and which are late.

use crate::device::{Device, describe};
use backend::BackendError;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaEvent, DriverError, sys};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The most steps on their way: one that the device works on, and one that it has next.
pub(crate) const IN_FLIGHT_MAX: usize = 2;
/// Sizes of steps, by powers of two of their rows.
const SIZES: usize = 16;
/// A step may take so many times as long as the longest of its size.
const PATIENCE: u32 = 20;

/// The steps, by their numbers.
pub(crate) struct Flights {
    device: Rc<Device>,
    slots: [Flight; IN_FLIGHT_MAX],
    /// Steps that were begun.
    begun: u64,
    /// Steps that have ended.
    ended: u64,
    /// When the last one ended: the next one has had the device since then.
    ended_at: Instant,
    /// By size.
    longest: [Duration; SIZES],
    /// How late a step may be, however short others were.
    limit_min: Duration,
}

struct Flight {
    end: CudaEvent,
    rows: usize,
    begun: Instant,
}

impl Flights {
    pub(crate) fn new(device: &Rc<Device>, limit_min: Duration) -> Result<Self, BackendError> {
        let now = Instant::now();
        let slot = || {
            let end = device.context.new_event(None).map_err(|error| device.fault("making an event", error))?;
            Ok::<_, BackendError>(Flight { end, rows: 0, begun: now })
        };
        Ok(Self {
            device: Rc::clone(device),
            slots: [slot()?, slot()?],
            begun: 0,
            ended: 0,
            ended_at: now,
            longest: [Duration::ZERO; SIZES],
            limit_min,
        })
    }

    /// Begins a step of `rows` rows, and gives its number.
    pub(crate) fn begin(&mut self, rows: usize) -> u64 {
        assert!(self.begun - self.ended < IN_FLIGHT_MAX as u64, "a step too many is on its way");
        let number = self.begun;
        let slot = &mut self.slots[slot(number)];
        (slot.rows, slot.begun) = (rows, Instant::now());
        self.begun += 1;
        number
    }

    /// All of the step has been submitted.
    pub(crate) fn submitted(&self, number: u64) -> Result<(), BackendError> {
        let recorded = self.slots[slot(number)].end.record(&self.device.stream);
        recorded.map_err(|error| self.device.fault("a step", error))
    }

    /// Whether the device has ended the step.
    pub(crate) fn has_ended(&mut self, number: u64) -> Result<bool, BackendError> {
        if number < self.ended {
            return Ok(true);
        }
        let slot = &self.slots[slot(number)];
        let (rows, time) = (slot.rows, slot.begun.max(self.ended_at).elapsed());
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(slot.end.cu_event()) } {
            CUresult::CUDA_SUCCESS => {
                let longest = &mut self.longest[size(rows)];
                *longest = time.max(*longest);
                (self.ended, self.ended_at) = (number + 1, Instant::now());
                Ok(true)
            }
            CUresult::CUDA_ERROR_NOT_READY => {
                let limit = limit(self.limit_min, self.longest[size(rows)]);
                if time > limit {
                    let limit_ms = limit.as_millis();
                    let text =
                        format!("no end of {rows} rows within {limit_ms} ms: a rank is gone, or the device hangs");
                    return Err(self.device.fault_text("a step", &text));
                }
                Ok(false)
            }
            error => Err(self.device.fault_text("a step", &format!("{rows} rows: {}", describe(DriverError(error))))),
        }
    }
}

fn slot(number: u64) -> usize {
    number as usize % IN_FLIGHT_MAX
}

fn size(rows: usize) -> usize {
    (rows.max(1).ilog2() as usize).min(SIZES - 1)
}

/// How long a step may take.
fn limit(least: Duration, longest: Duration) -> Duration {
    least.max(longest * PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_steps_may_take_longer() {
        let [second, ten] = [1, 10].map(Duration::from_secs);
        assert_eq!(limit(ten, Duration::ZERO), ten);
        assert_eq!(limit(ten, second), 2 * ten);
        assert_eq!([0, 1, 2, 3, 512, 1 << 20].map(size), [0, 0, 1, 1, 9, 15]);
    }
}
