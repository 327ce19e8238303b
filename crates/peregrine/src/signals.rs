//! Requests to end, from a terminal or a supervisor.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT (ctrl-c), SIGTERM, and SIGHUP, which comes when a terminal closes.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where whoever started this program has it ignored, as nohup does.
    hangup: Option<Signal>,
}

impl Signals {
    /// From here on the signals no longer end the process.
    pub fn new() -> std::io::Result<Self> {
        let hangup = if is_ignored(SignalKind::hangup()) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    /// The next one, as the exit code that a shell gives to a program which the signal has ended.
    pub async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let signal = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = hangup => SignalKind::hangup(),
        };
        128 + u8::try_from(signal.as_raw_value()).expect("signals are small numbers")
    }
}

/// Whether the process ignores a signal. Where there is no /proc to tell, it does not.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}
