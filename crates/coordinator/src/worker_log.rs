//! What a worker writes to its standard output and error. It is read as bytes, cut into lines of bounded length, and goes into
//! the coordinator's log, which never blocks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::{debug, error, info, trace, warn};

/// Bytes of a line that are kept.
const LINE_BYTES_MAX: usize = 4096;

/// Lines that are kept to explain a worker's end.
const LAST_WORDS_MAX: usize = 3;

/// The target of a worker's lines. Workers have filtered them already.
const TARGET: &str = "rank";

/// The last lines of a worker.
#[derive(Clone, Default)]
pub(crate) struct LastWords(Arc<Mutex<VecDeque<String>>>);

impl LastWords {
    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &str) {
        let mut lines = self.lines();
        if lines.len() == LAST_WORDS_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    pub(crate) fn text(&self) -> String {
        self.lines().make_contiguous().join(" | ")
    }
}

/// Passes a worker's lines on until it closes its end, or cannot be read. Neither says anything about the worker.
pub(crate) async fn pass_on(mut from: impl AsyncRead + Unpin, rank: usize, last_words: LastWords) {
    let (mut lines, mut bytes) = (Lines::default(), Vec::with_capacity(2 * LINE_BYTES_MAX));
    let mut each = |line: &str| {
        log_line(rank, line);
        if !is_backtrace(line) {
            last_words.push(line.trim_start());
        }
    };
    while from.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
        lines.push(&bytes, &mut each);
        bytes.clear();
    }
    lines.end(&mut each);
}

/// Logs a line at the level that it begins with. What does not come from the worker's own log is worth a warning: a panic, or
/// what a library says.
fn log_line(rank: usize, line: &str) {
    let (level, text) = line.trim_start().split_once(' ').unwrap_or_default();
    match level {
        "ERROR" => error!(target: TARGET, "rank {rank}: {text}"),
        "WARN" => warn!(target: TARGET, "rank {rank}: {text}"),
        "INFO" => info!(target: TARGET, "rank {rank}: {text}"),
        "DEBUG" => debug!(target: TARGET, "rank {rank}: {text}"),
        "TRACE" => trace!(target: TARGET, "rank {rank}: {text}"),
        _ => warn!(target: TARGET, "rank {rank}: {line}"),
    }
}

/// Frames of a backtrace explain little to whoever reads an error, and would push the panic's message out of it.
fn is_backtrace(line: &str) -> bool {
    let line = line.trim_start();
    let frame = line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    frame || ["at ", "note: ", "stack backtrace:"].iter().any(|start| line.starts_with(start))
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines {
    /// The beginning of the line that has not ended.
    line: Vec<u8>,
    /// How many bytes of it are not kept.
    dropped: usize,
}

impl Lines {
    /// Takes the next bytes, and gives every line that ends in them to `each`.
    fn push(&mut self, bytes: &[u8], each: &mut impl FnMut(&str)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let kept = text.len().min(LINE_BYTES_MAX - self.line.len());
            self.line.extend_from_slice(&text[..kept]);
            self.dropped += text.len() - kept;
            if text.len() < part.len() {
                self.finish(each);
            }
        }
    }

    /// Nothing more comes: what there is counts as a line.
    fn end(&mut self, each: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.finish(each);
        }
    }

    fn finish(&mut self, each: &mut impl FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end_matches('\r');
        match self.dropped {
            0 => each(line),
            dropped => each(&format!("{line} … ({dropped} bytes more)")),
        }
        self.line.clear();
        self.dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut each = |line: &str| found.push(line.to_owned());
        chunks.iter().for_each(|chunk| lines.push(chunk, &mut each));
        lines.end(&mut each);
        found
    }

    #[test]
    fn lines_are_the_same_however_their_bytes_come() {
        let bytes = b"one\n\ntw\xffo\r\nthree";
        let expected = ["one", "", "tw\u{fffd}o", "three"];
        for size in 1..=bytes.len() {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(lines_of(&chunks), expected, "in pieces of {size}");
        }
        assert_eq!(lines_of(&[b"a\n"]), ["a"]);
    }

    #[test]
    fn a_line_has_a_limit() {
        let long = vec![b'x'; 10 * LINE_BYTES_MAX];
        let chunks: Vec<&[u8]> = long.chunks(1000).chain([&b"\nnext\n"[..]]).collect();
        let [first, second] = &lines_of(&chunks)[..] else { panic!("two lines") };
        assert_eq!(*first, format!("{} … ({} bytes more)", "x".repeat(LINE_BYTES_MAX), 9 * LINE_BYTES_MAX));
        assert_eq!(second, "next");
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_and_frames_are_not() {
        let said =
            "first\n INFO second\nthread 'device-0' panicked\nwhy\n   0: main\n             at main.rs:1\nnote: see";
        let last_words = LastWords::default();
        pass_on(said.as_bytes(), 0, last_words.clone()).await;
        assert_eq!(last_words.text(), "INFO second | thread 'device-0' panicked | why");
    }
}
