//! The log, on standard error.
//!
//! A log that cannot be written must cost the log, and never the service: a disk may be full, and the reader of a pipe may be
//! gone, or stand still. So lines wait in memory, within a limit, for a thread of their own that writes them. What finds no
//! room there, or cannot be written, is lost; how many lines were is said as soon as there is a way again.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{ErrorKind, Write, stderr};
use std::os::fd::AsFd;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most bytes that wait.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// How long the end of the program is put off for lines that wait.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How long a standard error that is set not to block is left alone when it takes no more.
const RETRY_AFTER: Duration = Duration::from_millis(10);

static LOG: LazyLock<&Log> = LazyLock::new(|| {
    let log: &Log = Box::leak(Box::default());
    // A handle of our own: nobody else waits where this one does.
    let own = || Some(File::from(stderr().as_fd().try_clone_to_owned().ok()?));
    let thread =
        own().map(|mut file| std::thread::Builder::new().name("log".to_owned()).spawn(move || log.write_to(&mut file)));
    log.lock().has_writer = matches!(thread, Some(Ok(_)));
    log
});

/// Puts a line, or several, into the log.
pub fn say(text: &str) {
    LOG.push(format!("{text}\n").as_bytes());
}

/// Waits until all is written, for a while.
pub fn flush() {
    LOG.flush(FLUSH_LIMIT);
}

/// Has the log tell of panics.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let (thread, backtrace) = (std::thread::current(), Backtrace::capture());
        let name = thread.name().unwrap_or("<unnamed>");
        match backtrace.status() {
            BacktraceStatus::Captured => say(&format!("thread '{name}' {panic}\nstack backtrace:\n{backtrace}")),
            _ => say(&format!("thread '{name}' {panic}")),
        }
        flush();
    }));
}

/// What the subscriber of `tracing` writes to. Each event comes as one write.
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lines on their way.
#[derive(Default)]
struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// How many lines came after these, and found no room.
    lost: usize,
    is_writing: bool,
    has_writer: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lines: &[u8]) {
        let mut state = self.lock();
        if !state.has_writer {
            drop(state);
            // No thread could be started. What cannot be written is lost.
            let _ = stderr().write_all(lines);
        } else if state.waiting.len() + lines.len() > WAITING_BYTES_MAX {
            state.lost += count(lines);
        } else {
            state.waiting.extend_from_slice(lines);
            self.changed.notify_all();
        }
    }

    /// Writes what comes, for ever.
    fn write_to(&self, out: &mut impl Write) {
        // Lines that could not be written.
        let mut failed = 0;
        loop {
            let waiting = self.changed.wait_while(self.lock(), |state| state.waiting.is_empty());
            let mut state = waiting.unwrap_or_else(PoisonError::into_inner);
            state.is_writing = true;
            let (lines, lost) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.lost));
            drop(state);
            let whole = [note(failed).as_bytes(), &lines, note(lost).as_bytes()].concat();
            failed = match write_all(out, &whole) {
                Ok(()) => 0,
                Err(_) => failed + count(&lines) + lost,
            };
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    fn flush(&self, limit: Duration) {
        let is_busy = |state: &mut State| state.has_writer && (state.is_writing || !state.waiting.is_empty());
        // Late or not, there is nothing more to do about it.
        drop(self.changed.wait_timeout_while(self.lock(), limit, is_busy));
    }
}

/// What the log says in the place of lines that were lost.
fn note(lost: usize) -> String {
    if lost > 0 { format!("{lost} lines of the log were lost\n") } else { String::new() }
}

fn count(lines: &[u8]) -> usize {
    lines.iter().filter(|&&byte| byte == b'\n').count()
}

/// As [`Write::write_all`], also where standard error is set not to block, by somebody who shares it.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_AFTER),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const LIMIT: Duration = Duration::from_secs(30);

    /// A standard error that takes what it is told to take, and stands still until then.
    struct Told {
        answers: Receiver<std::io::Result<()>>,
        written: Sender<String>,
    }

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // The test has ended: nothing is left to say.
            let Ok(answer) = self.answers.recv() else { return Ok(bytes.len()) };
            answer?;
            self.written.send(String::from_utf8_lossy(bytes).into_owned()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log() -> (&'static Log, Sender<std::io::Result<()>>, Receiver<String>) {
        let log: &Log = Box::leak(Box::default());
        log.lock().has_writer = true;
        let ((answer, answers), (written, lines)) = (channel(), channel());
        std::thread::spawn(move || log.write_to(&mut Told { answers, written }));
        (log, answer, lines)
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up() {
        let (log, answer, lines) = log();
        log.push(b"first\n");
        // The thread has taken it, and stands still.
        while !log.lock().is_writing {
            std::thread::yield_now();
        }
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..3000 {
            log.push(&line);
        }
        log.flush(Duration::from_millis(1));
        assert_eq!(log.lock().waiting.len(), WAITING_BYTES_MAX);
        for _ in 0..2 {
            answer.send(Ok(())).expect("it listens");
        }
        assert_eq!(lines.recv_timeout(LIMIT).as_deref(), Ok("first\n"));
        let rest = lines.recv_timeout(LIMIT).expect("all that found room");
        let note = rest.get(WAITING_BYTES_MAX..);
        assert_eq!(note, Some("1976 lines of the log were lost\n"));
        log.flush(LIMIT);
        assert!(!log.lock().is_writing);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_rest_goes_on() {
        let (log, answer, lines) = log();
        answer.send(Err(ErrorKind::StorageFull.into())).expect("it listens");
        log.push(b"one\ntwo\n");
        log.flush(LIMIT);
        for error in [ErrorKind::Interrupted, ErrorKind::WouldBlock] {
            answer.send(Err(error.into())).expect("it listens");
        }
        answer.send(Ok(())).expect("it listens");
        log.push(b"three\n");
        log.flush(LIMIT);
        assert_eq!(lines.try_recv().as_deref(), Ok("2 lines of the log were lost\nthree\n"));
    }
}
