//! Polling.

use std::time::Duration;

/// Waits between one poll and the next: it yields at first, and then sleeps, so that the core is left to others.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    const YIELDS: u32 = 100;
    const SLEEP: Duration = Duration::from_micros(20);

    /// Waits, longer after the first hundred calls.
    pub fn wait(&mut self) {
        if self.0 < Self::YIELDS {
            self.0 += 1;
            std::thread::yield_now();
        } else {
            std::thread::sleep(Self::SLEEP);
        }
    }
}
