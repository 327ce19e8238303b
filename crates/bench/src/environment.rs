//! Where and how a benchmark was run: what its figures mean little without.

use serde::Serialize;
use std::path::Path;
use std::time::SystemTime;

/// The benchmark's own program and the machine under it, which need not be the server's.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// The command line, quoted for a shell.
    pub command: String,
    /// Peregrine's version.
    pub version: &'static str,
    /// The machine that sent the requests.
    pub machine: Machine,
}

/// A machine, as far as Linux tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The model of its CPU.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Distribution and kernel.
    pub os: String,
}

/// The flag whose value is a secret.
const API_KEY: &str = "--api-key";

impl Environment {
    /// This process and its machine.
    #[must_use]
    pub fn here() -> Self {
        let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
        Self { command: command_line(arguments), version: env!("CARGO_PKG_VERSION"), machine: Machine::here() }
    }
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        let memory =
            after(&read("/proc/meminfo"), "MemTotal:").and_then(|kib| kib.strip_suffix("kB")?.trim().parse().ok());
        let name = after(&read("/etc/os-release"), "PRETTY_NAME=").unwrap_or_else(|| "Linux".to_owned());
        Self {
            cpu: after(&read("/proc/cpuinfo"), "model name\t:").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.map_or(0, |kib: u64| kib << 10),
            os: format!("{}, kernel {}", name.trim_matches('"'), read("/proc/sys/kernel/osrelease").trim()),
        }
    }
}

/// What follows `key` in the first line that begins with it.
fn after(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
}

/// As a shell takes it, but for the key, which is no one else's business.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut is_key = false;
    let shown = arguments.map(|argument| match (std::mem::replace(&mut is_key, argument == API_KEY), argument) {
        (true, _) => "…".to_owned(),
        (false, given) if given.strip_prefix(API_KEY).is_some_and(|rest| rest.starts_with('=')) => {
            format!("{API_KEY}=…")
        }
        (false, argument) => quoted(&argument),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// As a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:=,+@%".contains(letter);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// A time in RFC 3339, in UTC.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_key_is_not_told() {
        for key in [&["--api-key", "secret"][..], &["--api-key=secret"]] {
            let line = command_line([&["serve"], key, &["--seed", "a b"]].concat().into_iter().map(str::to_owned));
            assert!(!line.contains("secret") && line.ends_with("… --seed 'a b'"), "{line}");
        }
    }

    #[test]
    fn arguments_are_quoted_where_a_shell_needs_it() {
        for (argument, expected) in [
            ("--dataset", "--dataset"),
            ("64-512/log:100:0.8", "64-512/log:100:0.8"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(quoted(argument), expected);
        }
    }

    #[test]
    fn a_machine_tells_what_it_is() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(!machine.cpu.is_empty() && machine.os.contains("kernel "), "{machine:?}");
    }

    #[test]
    fn dates_are_rfc_3339() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)), "2023-11-14T22:13:20Z");
    }
}
