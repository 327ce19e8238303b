//! Admission: permits for the sequences that run or wait, and when the next permit will be free.

use crate::Error;
use crate::drain::Work;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What is said where nothing has been measured, and the least and the most that is said.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The weight of a new measurement.
const WEIGHT: f64 = 0.2;

/// A fixed number of permits, one for each sequence that is under way.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Shared>);

struct Shared {
    permits: Arc<Semaphore>,
    turnover: Mutex<Turnover>,
}

/// How often a permit becomes free while all are taken.
#[derive(Default)]
struct Turnover {
    /// When one did so last.
    last: Option<Instant>,
    interval_secs: Option<f64>,
    /// Callers that were refused since then; they come back, and want a permit each.
    refused: u32,
}

impl Admission {
    pub(crate) fn new(count: usize) -> Self {
        let permits = Arc::new(Semaphore::new(count));
        Self(Arc::new(Shared { permits, turnover: Mutex::default() }))
    }

    /// Takes a permit, without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] if all are taken.
    pub(crate) fn take(&self) -> Result<Permit, Error> {
        match self.0.permits.clone().try_acquire_owned() {
            Ok(permit) => Ok(Permit { admission: self.clone(), permit: Some(permit), work: None }),
            Err(_) => Err(Error::Overloaded { retry_after: self.turnover().refuse() }),
        }
    }

    fn turnover(&self) -> MutexGuard<'_, Turnover> {
        self.0.turnover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turnover {
    /// A permit becomes free, and `full` says whether all were taken.
    fn free(&mut self, full: bool, now: Instant) {
        match self.last.filter(|_| full) {
            Some(last) => {
                let secs = (now - last).as_secs_f64();
                let interval = self.interval_secs.get_or_insert(secs);
                *interval += WEIGHT * (secs - *interval);
            }
            None => self.refused = 0,
        }
        self.refused = self.refused.saturating_sub(1);
        self.last = full.then_some(now);
    }

    /// How long the next who is refused should wait: until those who were refused before have found a permit.
    fn refuse(&mut self) -> Duration {
        self.refused = self.refused.saturating_add(1);
        let Some(interval) = self.interval_secs else { return RETRY_UNKNOWN };
        Duration::from_secs_f64((interval * f64::from(self.refused)).min(RETRY_MAX.as_secs_f64())).max(RETRY_MIN)
    }
}

/// One sequence's right to run or wait; returned when it is dropped.
pub(crate) struct Permit {
    admission: Admission,
    permit: Option<OwnedSemaphorePermit>,
    work: Option<Work>,
}

impl Permit {
    /// With what else lasts as long.
    pub(crate) fn with(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let full = self.admission.0.permits.available_permits() == 0;
        self.admission.turnover().free(full, Instant::now());
        drop(self.permit.take());
        drop(self.work.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_is_refused_hears_when_a_place_will_be_free() {
        let admission = Admission::new(2);
        let refused = || match admission.take() {
            Err(Error::Overloaded { retry_after }) => retry_after,
            _ => panic!("all permits are taken"),
        };
        let mut taken = vec![admission.take().expect("free"), admission.take().expect("free")];
        assert_eq!(refused(), RETRY_UNKNOWN);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(3)).await;
            taken.remove(0);
            taken.push(admission.take().expect("just given back"));
        }
        assert_eq!([refused(), refused()], [3, 6].map(Duration::from_secs));
        tokio::time::advance(Duration::from_secs(3)).await;
        taken.clear();
        tokio::time::advance(Duration::from_secs(1000)).await;
        taken.extend([admission.take().expect("free"), admission.take().expect("free")]);
        assert_eq!(refused(), Duration::from_secs(3), "idle time says nothing about a full server");
    }
}
