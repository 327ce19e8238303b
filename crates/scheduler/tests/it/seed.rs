//! Seeds of random tests.

/// Set it to a seed that a failure named, and that case runs first.
const VARIABLE: &str = "SCHEDULER_SEED";

/// The seed of one random case, which names itself if the case fails.
pub struct Seed(u64);

impl Seed {
    /// A seed for each of so many cases: consecutive ones from a random first, or from the one that was set.
    pub fn cases(count: u64) -> impl Iterator<Item = Self> {
        let first = match std::env::var(VARIABLE) {
            Ok(value) => value.parse().unwrap_or_else(|_| panic!("{VARIABLE}: expected a number, found {value:?}")),
            Err(_) => fastrand::u64(..),
        };
        (0..count).map(move |case| Self(first.wrapping_add(case)))
    }

    pub fn rng(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.0)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this case failed: to repeat it, set {VARIABLE}={}", self.0);
        }
    }
}
