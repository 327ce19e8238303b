//! Whether the time in which a key is looked up tells anything of the keys: `cargo bench -p server --bench key_timing`.
//!
//! Two sets of keys are shown, one of each in random order, and the times are compared by Welch's t-test, as in "dude, is my code
//! constant time?" (Reparaz, Balasch, Verbauwhede, 2017): |t| above 4.5 is a difference. A comparison that ends at the first byte that
//! differs must be found out by the same test, or it could find nothing. Ends with 1 if either fails. docs/security.md has a run.

#![expect(clippy::print_stdout, reason = "it is a program that reports")]

use server::Keys;
use std::hint::black_box;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

/// Keys in the file.
const KEYS: usize = 64;
/// Characters of a key.
const LENGTH: usize = 64;
/// Times of each set.
const TIMES: usize = 200_000;
/// Look-ups in one time.
const BATCH: usize = 8;
/// The longest times, which interrupts made: a part of all.
const CUT_OFF: f64 = 0.1;
/// |t| of a difference.
const THRESHOLD: f64 = 4.5;
/// How far above the threshold |t| must be expected so that 99 % of runs find the difference.
const POWER: f64 = 2.33;

/// Looks a key up.
type LookUp<'a> = &'a dyn Fn(&[u8]) -> bool;

/// A comparison of two sets of keys.
struct Case<'a> {
    name: &'static str,
    look_up: LookUp<'a>,
    shown: [Vec<u8>; 2],
    differs: bool,
}

/// Mean and variance, in ns a look-up.
#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

fn moments(times: &[f64]) -> Moments {
    let count = times.len() as f64;
    let mean = times.iter().sum::<f64>() / count;
    let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Moments { count, mean, variance }
}

/// The times of both sets in ns a look-up, without the longest.
fn measure(case: &Case<'_>, random: &mut fastrand::Rng) -> [Moments; 2] {
    let mut times = [Vec::with_capacity(TIMES), Vec::with_capacity(TIMES)];
    while times.iter().any(|times| times.len() < TIMES) {
        let which = usize::from(random.bool());
        // Both lie in the same place, so that caches and alignment are no part of it.
        let shown = case.shown[which].clone();
        let begin = Instant::now();
        for _ in 0..BATCH {
            black_box((case.look_up)(black_box(&shown)));
        }
        times[which].push(begin.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let longest = all[(all.len() as f64 * (1.0 - CUT_OFF)) as usize];
    times.map(|mut times| {
        times.retain(|&time| time < longest);
        moments(&times)
    })
}

fn report(case: &Case<'_>, random: &mut fastrand::Rng) -> bool {
    let [a, b] = measure(case, random);
    let error = (a.variance / a.count + b.variance / b.count).sqrt();
    let t = (a.mean - b.mean) / error;
    let (found, expected) = (t.abs() > THRESHOLD, case.differs);
    println!(
        "{:52} {:8.2} ns {:8.2} ns, difference {:+7.3} ns, t {t:+8.2}; found from {:.3} ns on: {}",
        case.name,
        a.mean,
        b.mean,
        a.mean - b.mean,
        (THRESHOLD + POWER) * error,
        if found == expected { "as it should be" } else { "NOT as it should be" }
    );
    found == expected
}

fn main() -> ExitCode {
    let seed = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}, {KEYS} keys of {LENGTH} characters, {TIMES} times of {BATCH} look-ups in each set");
    let mut random = fastrand::Rng::with_seed(seed);
    let keys: Vec<Vec<u8>> = (0..KEYS).map(|_| (0..LENGTH).map(|_| random.alphanumeric() as u8).collect()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    for key in &keys {
        writeln!(file, "{}", std::str::from_utf8(key).expect("ASCII")).expect("it can be written");
    }
    let ours = Keys::open(file.path().to_owned()).expect("keys");
    let constant: LookUp<'_> = &|shown| ours.caller(shown).is_some();
    let early: LookUp<'_> = &|shown| {
        let equal = |key: &Vec<u8>| key.iter().zip(shown).all(|(a, b)| black_box(a) == black_box(b));
        keys.iter().any(equal)
    };
    let wrong_at = |at: usize| {
        let mut key = keys[KEYS / 2].clone();
        key[at] = b'~';
        key
    };
    let prefixes = || [wrong_at(0), wrong_at(LENGTH - 1)];
    let places = || [keys[0].clone(), keys[KEYS - 1].clone()];
    let cases = [
        Case {
            name: "wrong in the first character, in the last",
            look_up: constant,
            shown: prefixes(),
            differs: false,
        },
        Case { name: "the first key of the file, the last", look_up: constant, shown: places(), differs: false },
        Case {
            name: "early end: wrong in the first character, in the last",
            look_up: early,
            shown: prefixes(),
            differs: true,
        },
        Case { name: "early end: the first key, the last", look_up: early, shown: places(), differs: true },
    ];
    let results = cases.map(|case| report(&case, &mut random));
    if results.iter().all(|&good| good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
