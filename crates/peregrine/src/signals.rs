//! Requests to end, from a terminal or a supervisor.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT (ctrl-c) and SIGTERM.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on the signals no longer end the process.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next one, as the exit code that a shell gives to a program which the signal has ended.
    pub async fn next(&mut self) -> u8 {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        128 + u8::try_from(signal.as_raw_value()).expect("signals are small numbers")
    }
}
