//! What is said of a mapped file that cannot be read any more, before the process ends: an access to it has no other way to
//! fail than SIGBUS.

use memmap2::Mmap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Bytes of the line that is written; what a path has beyond is left out.
const LINE_BYTES_MAX: usize = 1024;

/// A place of a mapped file that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The byte of the file, or the first of several.
    pub offset: u64,
    /// Bytes of the file when it was mapped.
    pub mapped: u64,
    /// Bytes that it has now; `None` if the system does not say.
    pub now: Option<u64>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, mapped, now } = *self;
        match now {
            Some(now) if now < mapped => {
                write!(f, "cut short while it was in use, from {mapped} to {now} bytes: byte {offset} cannot be read")
            }
            _ => write!(f, "byte {offset} of {mapped} cannot be read; the disk or the file system has failed"),
        }
    }
}

/// From here on, an access to a mapped file that cannot be read ends the process with this exit code, and a line on the
/// standard error that names the file and the place. Every other SIGBUS does what it did before. A second call changes nothing.
///
/// # Errors
///
/// The system's, if it takes no handler.
pub fn report_faults(exit_code: i32) -> io::Result<()> {
    let mut previous = MaybeUninit::zeroed();
    // SAFETY: it only reads, into a place of the right type.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has filled it.
    if BEFORE.set((exit_code, unsafe { previous.assume_init() })).is_err() {
        return Ok(());
    }
    // SAFETY: all zeros are a valid action: the default, with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // It runs on the stack of the thread that faulted: that is sound, as a mapped file is what could not be read.
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what a handler may: it reads atomics,
    // formats numbers into an array, and calls async-signal-safe functions.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The exit code, and what was done at a SIGBUS before.
static BEFORE: OnceLock<(i32, libc::sigaction)> = OnceLock::new();

/// The mappings, as a list to which entries are only added: so a handler may walk it at any time.
static FIRST: OnceLock<&'static Entry> = OnceLock::new();

/// Held to change the list.
static CHANGING: Mutex<()> = Mutex::new(());

/// A place of the list, for the mappings of one file one after the other.
struct Entry {
    path: PathBuf,
    start: AtomicUsize,
    /// 0 if it is not in use.
    len: AtomicUsize,
    file: AtomicI32,
    next: OnceLock<&'static Entry>,
}

/// As long as it lives, its mapping is one that the handler knows.
pub(super) struct Watch(&'static Entry);

impl Watch {
    /// Of a mapping of `file`, which must be open for as long.
    pub(super) fn new(path: &Path, file: &File, map: &Mmap) -> Self {
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = entries().find(|entry| entry.len.load(Ordering::Relaxed) == 0 && entry.path == path);
        let entry = unused.unwrap_or_else(|| add(path));
        entry.file.store(file.as_raw_fd(), Ordering::Relaxed);
        entry.start.store(map.as_ptr().addr(), Ordering::Relaxed);
        // Whoever sees the length sees the rest.
        entry.len.store(map.len(), Ordering::Release);
        Self(entry)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.len.store(0, Ordering::Release);
    }
}

/// Adds an entry at the end. It stays for good, as a handler may be reading it; there is one for each file, at least while no
/// file is mapped twice at once.
fn add(path: &Path) -> &'static Entry {
    let entry: &'static Entry = Box::leak(Box::new(Entry {
        path: path.to_owned(),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        file: AtomicI32::new(-1),
        next: OnceLock::new(),
    }));
    let end = entries().last().map_or(&FIRST, |last| &last.next);
    assert!(end.set(entry).is_ok(), "the list is changed by one thread at a time");
    entry
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    std::iter::successors(FIRST.get().copied(), |entry| entry.next.get().copied())
}

/// The mapping that holds an address, and where in it that is.
fn find(address: usize) -> Option<(&'static Entry, usize)> {
    entries().find_map(|entry| {
        let len = entry.len.load(Ordering::Acquire);
        let offset = address.wrapping_sub(entry.start.load(Ordering::Relaxed));
        (offset < len).then_some((entry, offset))
    })
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system hands a valid `siginfo_t` to a handler with SA_SIGINFO.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // One that a process has sent has no address.
    let is_fault = code > 0;
    match find(address).filter(|_| is_fault) {
        Some((entry, offset)) => end(entry, offset),
        None => give_back(is_fault),
    }
}

/// Lets the signal do what it did before: after this the access is tried again, or the signal comes again.
fn give_back(is_fault: bool) {
    let previous = BEFORE.get().map_or(ptr::null(), |(_, action)| ptr::from_ref(action));
    // SAFETY: both are async-signal-safe, and the action is one that the system gave, or null, which changes nothing; it is
    // set before the handler is.
    unsafe {
        libc::sigaction(libc::SIGBUS, previous, ptr::null_mut());
        if !is_fault {
            libc::raise(libc::SIGBUS);
        }
    }
}

/// Says what has happened, and ends the process.
fn end(entry: &Entry, offset: usize) -> ! {
    static SAYING: AtomicBool = AtomicBool::new(false);
    while SAYING.swap(true, Ordering::Relaxed) {
        // Another thread has met the same, and ends the process.
        // SAFETY: it is async-signal-safe, and takes nothing.
        unsafe { libc::pause() };
    }
    let exit_code = BEFORE.get().map_or(1, |&(exit_code, _)| exit_code);
    let mapped = entry.len.load(Ordering::Relaxed) as u64;
    let fault = Fault { offset: offset as u64, mapped, now: len_of(entry.file.load(Ordering::Relaxed)) };
    let mut line = [0; LINE_BYTES_MAX];
    let len = say(&mut line, &entry.path, fault);
    // SAFETY: both are async-signal-safe, and `len` bytes of the line are written.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), len);
        libc::_exit(exit_code)
    }
}

/// Writes the line as the log would, and gives its length. Neither memory nor a lock is taken.
fn say(line: &mut [u8; LINE_BYTES_MAX], path: &Path, fault: Fault) -> usize {
    /// What stands around the path has at most so many bytes.
    const REST_BYTES_MAX: usize = 200;
    let path = path.as_os_str().as_bytes();
    let path = &path[..path.len().min(LINE_BYTES_MAX - REST_BYTES_MAX)];
    let mut rest = &mut line[..];
    let _ = rest.write_all(b"ERROR ");
    let _ = rest.write_all(path);
    let _ = writeln!(rest, ": {fault}");
    LINE_BYTES_MAX - rest.len()
}

fn len_of(file: RawFd) -> Option<u64> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: it is async-signal-safe, and writes into a place of the right type. Whatever the descriptor is, it is only asked
    // about.
    let known = unsafe { libc::fstat(file, stat.as_mut_ptr()) } == 0;
    // SAFETY: the system has filled it, and all zeros are valid, too.
    known.then(|| unsafe { stat.assume_init() }.st_size.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmap::{MappedFile, map};
    use std::hint::black_box;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    const BYTES: usize = 100_000;
    const EXIT_CODE: i32 = 77;
    const ROLE: &str = "FAULTS_TEST_ROLE";

    /// Runs [`role`] in a process of its own.
    fn run(role: &str, path: &Path) -> Output {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "mmap::faults::tests::role", "--nocapture"]).env(ROLE, role).env("FILE", path);
        command.output().expect("it runs")
    }

    /// Not a test of its own, but what those below run in a process: a SIGBUS of some kind.
    #[test]
    fn role() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let path = PathBuf::from(std::env::var_os("FILE").expect("a file"));
        report_faults(EXIT_CODE).expect("a handler");
        let file = MappedFile::open(path.clone()).expect("a file");
        let other = File::open(&path).and_then(|file| map(&path, &file)).expect("a file");
        let cut = || File::options().write(true).open(&path).and_then(|file| file.set_len(5000)).expect("cut");
        match &*role {
            "ours" => {
                drop(other);
                cut();
                std::thread::scope(|scope| {
                    (0..4).for_each(|_| _ = scope.spawn(|| black_box(file.bytes()[50_000])));
                });
            }
            // Of a mapping that is not known any more.
            "another" => {
                drop(other.watch);
                drop(file);
                cut();
                black_box(other.map[50_000]);
            }
            // Rust's own handler, which is the one before, lets the first go by.
            // SAFETY: it takes a number.
            "sent" => (0..2).for_each(|_| assert_eq!(unsafe { libc::raise(libc::SIGBUS) }, 0)),
            other => panic!("no role {other}"),
        }
        panic!("it goes on");
    }

    fn file() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&[1; BYTES]).expect("room");
        file
    }

    #[test]
    fn a_file_that_is_cut_short_ends_the_process_by_its_name() {
        let file = file();
        let Output { status, stderr, .. } = run("ours", file.path());
        let (path, said) = (file.path().display(), String::from_utf8_lossy(&stderr));
        let expected = format!(
            "ERROR {path}: cut short while it was in use, from {BYTES} to 5000 bytes: byte 50000 cannot be read\n"
        );
        assert!(said.ends_with(&expected) && said.matches("ERROR").count() == 1, "{said}");
        assert_eq!(status.code(), Some(EXIT_CODE), "{status}");
    }

    #[test]
    fn every_other_sigbus_kills_the_process() {
        for role in ["another", "sent"] {
            let Output { status, stderr, .. } = run(role, file().path());
            let said = String::from_utf8_lossy(&stderr);
            assert_eq!(status.signal(), Some(libc::SIGBUS), "{role}: {status}; {said}");
            assert!(!said.contains("ERROR"), "{role}: {said}");
        }
    }

    #[test]
    fn a_line_says_as_much_of_a_long_path_as_there_is_room() {
        let mut line = [0; LINE_BYTES_MAX];
        let (path, most) = (PathBuf::from("x".repeat(5000)), u64::MAX);
        for now in [None, Some(0), Some(most - 1)] {
            let fault = Fault { offset: most, mapped: most, now };
            let len = say(&mut line, &path, fault);
            let said = String::from_utf8_lossy(&line[..len]);
            assert!(said.starts_with("ERROR xxx") && said.ends_with(&format!("xxx: {fault}\n")), "{said}");
        }
    }

    #[test]
    fn an_entry_is_used_again_by_the_next_mapping_of_its_file() {
        let file = file();
        let count = || entries().filter(|entry| entry.path == file.path()).count();
        for _ in 0..10 {
            drop(MappedFile::open(file.path().to_owned()).expect("a file"));
        }
        assert_eq!(count(), 1);
        let both = [0, 1].map(|_| MappedFile::open(file.path().to_owned()).expect("a file"));
        assert_eq!(count(), 2);
        for file in &both {
            let found = find(file.bytes()[7..].as_ptr().addr()).expect("it is watched");
            assert_eq!((found.1, &found.0.path), (7, &file.path));
        }
        let address = both[0].bytes().as_ptr().addr();
        drop(both);
        assert!(find(address).is_none_or(|(entry, _)| entry.path != file.path()));
    }
}
