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
/// A step may take so many times as long as the longest of its size. The coordinator allows 20, and 4/3 of the least time: so
/// that a rank can say itself what it waits for, before it is ended.
const PATIENCE: u32 = 15;

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
    /// By size, where there was one.
    longest: [Option<Duration>; SIZES],
    limits: Limits,
}

/// How long a step may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// However short others of its size were.
    pub(crate) least: Duration,
    /// The first of its size.
    pub(crate) first: Duration,
}

/// How a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ended,
    OnItsWay,
    /// It is later than it may be.
    Late {
        rows: usize,
        limit: Duration,
    },
}

struct Flight {
    end: CudaEvent,
    rows: usize,
    begun: Instant,
}

impl Flights {
    pub(crate) fn new(device: &Rc<Device>, limits: Limits) -> Result<Self, BackendError> {
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
            longest: [None; SIZES],
            limits,
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

    /// Asks the device for the step.
    pub(crate) fn state(&mut self, number: u64) -> Result<State, BackendError> {
        if number < self.ended {
            return Ok(State::Ended);
        }
        let slot = &self.slots[slot(number)];
        let (rows, time) = (slot.rows, slot.begun.max(self.ended_at).elapsed());
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(slot.end.cu_event()) } {
            CUresult::CUDA_SUCCESS => {
                let longest = &mut self.longest[size(rows)];
                *longest = (*longest).max(Some(time));
                (self.ended, self.ended_at) = (number + 1, Instant::now());
                Ok(State::Ended)
            }
            CUresult::CUDA_ERROR_NOT_READY => {
                let limit = self.limits.of(self.longest[size(rows)]);
                Ok(if time > limit { State::Late { rows, limit } } else { State::OnItsWay })
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

impl Limits {
    /// Of a step, by the longest of its size.
    fn of(self, longest: Option<Duration>) -> Duration {
        longest.map_or(self.first.max(self.least), |longest| self.least.max(longest * PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_steps_may_take_longer() {
        let [second, ten, minute] = [1, 10, 60].map(Duration::from_secs);
        let limits = Limits { least: ten, first: minute };
        assert_eq!(limits.of(None), minute);
        assert_eq!(limits.of(Some(second / 10)), ten);
        assert_eq!(limits.of(Some(second)), 15 * second);
        assert_eq!([0, 1, 2, 3, 512, 1 << 20].map(size), [0, 0, 1, 1, 9, 15]);
    }
}
