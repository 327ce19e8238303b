//! Steps on their way: which have ended, and which are late.

use crate::device::{Device, describe};
use backend::BackendError;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaEvent, DriverError, sys};
use std::rc::Rc;
use std::time::{Duration, Instant};
use timeouts::{StepTimeLimits, Stopwatch};

/// The most steps on their way: one that the device works on, and one that it has next.
pub(crate) const IN_FLIGHT_MAX: usize = 2;

/// The steps, by their numbers.
pub(crate) struct InFlightSteps {
    device: Rc<Device>,
    slots: [InFlightStep; IN_FLIGHT_MAX],
    /// Steps that were begun.
    begun: u64,
    /// Steps that have ended.
    ended: u64,
    /// Of the oldest one, since it has had the device.
    clock: Stopwatch,
    limits: StepTimeLimits,
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

struct InFlightStep {
    end: CudaEvent,
    rows: usize,
}

impl InFlightSteps {
    pub(crate) fn new(device: &Rc<Device>, limits: StepTimeLimits) -> Result<Self, BackendError> {
        let slot = || {
            let end = device.context.new_event(None).map_err(|error| device.fault("making an event", error))?;
            Ok::<_, BackendError>(InFlightStep { end, rows: 0 })
        };
        Ok(Self {
            device: Rc::clone(device),
            slots: [slot()?, slot()?],
            begun: 0,
            ended: 0,
            clock: Stopwatch::start(Instant::now()),
            limits,
        })
    }

    /// Begins a step of `rows` rows, and gives its number.
    pub(crate) fn begin(&mut self, rows: usize) -> u64 {
        assert!(self.begun - self.ended < IN_FLIGHT_MAX as u64, "a step too many is on its way");
        let number = self.begun;
        self.slots[slot(number)].rows = rows;
        if self.begun == self.ended {
            self.clock = Stopwatch::start(Instant::now());
        }
        self.begun += 1;
        number
    }

    /// No step is on its way any more, whatever became of it.
    pub(crate) fn forget(&mut self) {
        self.ended = self.begun;
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
        let (slot, now) = (&self.slots[slot(number)], Instant::now());
        let rows = slot.rows;
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(slot.end.cu_event()) } {
            CUresult::CUDA_SUCCESS => {
                self.limits.observe(rows, self.clock.elapsed(now, || false));
                self.ended = number + 1;
                self.clock = Stopwatch::start(now);
                Ok(State::Ended)
            }
            CUresult::CUDA_ERROR_NOT_READY => {
                let time = self.clock.elapsed(now, || self.device.is_peer_stopped());
                let limit = self.limits.limit(rows);
                Ok(if time > limit { State::Late { rows, limit } } else { State::OnItsWay })
            }
            error => Err(self.device.fault_text("a step", &format!("{rows} rows: {}", describe(DriverError(error))))),
        }
    }
}

fn slot(number: u64) -> usize {
    number as usize % IN_FLIGHT_MAX
}
