//! Where runs are reported, each when it ends.

use super::{Ended, ServeError, ServeOptions};
use crate::dataset::Dataset;
use crate::environment::Environment;
use crate::report::{self, Run};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// The runs so far, and the files that hold them.
pub(super) struct Results<'a> {
    environment: &'a Environment,
    out: &'a mut dyn Write,
    json: Option<ResultFile>,
    html: Option<ResultFile>,
    detailed: bool,
    runs: Vec<Run>,
}

impl<'a> Results<'a> {
    /// Opens the files, and changes nothing in them yet.
    pub(super) fn open(
        options: &ServeOptions,
        environment: &'a Environment,
        out: &'a mut dyn Write,
    ) -> Result<Self, ServeError> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(ResultFile::open).transpose();
        let (json, html) = (open(&options.json)?, open(&options.html)?);
        Ok(Self { environment, out, json, html, detailed: options.save_detailed, runs: Vec::new() })
    }

    /// The first run is about to start.
    pub(super) fn begin(&mut self) -> Result<(), ServeError> {
        for file in self.json.iter_mut().chain(&mut self.html) {
            file.replace("")?;
        }
        self.print(&report::markdown_header())
    }

    /// A run has ended.
    pub(super) fn add(&mut self, run: Run) -> Result<(), ServeError> {
        if let Some(file) = &mut self.json {
            file.append(&format!("{}\n", report::json(&run, self.environment, self.detailed)))?;
        }
        let row = report::markdown_row(&run);
        self.runs.push(run);
        if let Some(file) = self.html.as_mut().filter(|file| file.is_regular) {
            file.replace(&report::html(&self.runs, self.environment))?;
        }
        self.print(&row)
    }

    fn print(&mut self, text: &str) -> Result<(), ServeError> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(ServeError::Print)
    }

    /// No more runs come.
    pub(super) fn finish(mut self, ended: Ended) -> Result<(), ServeError> {
        if let Some(file) = self.html.as_mut().filter(|file| !file.is_regular) {
            file.append(&report::html(&self.runs, self.environment))?;
        }
        let examples = Dataset::JumpStart.to_string();
        let of_examples = self.runs.iter().filter(|run| run.dataset == examples && run.metrics.completed > 0);
        let tables: String = of_examples.map(|run| format!("\n{}", report::jumpstart(run))).collect();
        self.print(&tables)?;
        if self.runs.iter().any(|run| run.metrics.completed > 0) {
            self.print(&format!("\nOutput tokens: {}.\n", report::counted(&self.runs)))?;
        }
        if self.runs.iter().any(|run| !run.failures.is_empty()) {
            self.print(&format!("\n{}", report::markdown_failures(&self.runs)))?;
        }
        let mut failed = self.runs.iter().filter(|run| run.metrics.completed == 0);
        let Some(first) = failed.next().filter(|_| ended == Ended::Complete) else { return Ok(()) };
        let reason = first.failures.first().map_or_else(String::new, report::failure);
        Err(ServeError::RunsFailed { failed: 1 + failed.count(), runs: self.runs.len(), first: first.name(), reason })
    }
}

/// A file for results. Opening it shows whether it can be written.
struct ResultFile {
    path: PathBuf,
    file: File,
    /// Not a pipe or a device, which take each byte once.
    is_regular: bool,
}

impl ResultFile {
    fn open(path: &Path) -> Result<Self, ServeError> {
        let open = || {
            // What an earlier benchmark left stays until there is a server to measure.
            let file = File::options().write(true).create(true).truncate(false).open(path)?;
            let is_regular = file.metadata()?.is_file();
            Ok(Self { path: path.to_owned(), file, is_regular })
        };
        open().map_err(|error| ServeError::Write { path: path.to_owned(), error })
    }

    fn append(&mut self, text: &str) -> Result<(), ServeError> {
        self.file.write_all(text.as_bytes()).map_err(|error| ServeError::Write { path: self.path.clone(), error })
    }

    /// Makes `text` all that a regular file holds.
    fn replace(&mut self, text: &str) -> Result<(), ServeError> {
        if !self.is_regular {
            return Ok(());
        }
        let mut replace = || {
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())?;
            self.file.set_len(text.len() as u64)
        };
        replace().map_err(|error| ServeError::Write { path: self.path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_or_appended_to() {
        let path = std::env::temp_dir().join(format!("peregrine-results-{}", std::process::id()));
        std::fs::write(&path, "of an earlier benchmark").expect("a temporary file");
        let mut file = ResultFile::open(&path).expect("it can be written");
        let read = || std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(read(), "of an earlier benchmark");
        file.replace("").expect("written");
        file.append("one\n").expect("written");
        file.append("two\n").expect("written");
        assert_eq!(read(), "one\ntwo\n");
        file.replace("three").expect("written");
        assert_eq!(read(), "three");
        std::fs::remove_file(&path).expect("written above");

        let error = ResultFile::open(Path::new("/nonexistent/x.json")).err().expect("no such folder").to_string();
        assert!(error.starts_with("/nonexistent/x.json: cannot write: No such file"), "{error}");
        let mut device = ResultFile::open(Path::new("/dev/null")).expect("a device");
        assert!(!device.is_regular && device.replace("").is_ok() && device.append("a").is_ok());
    }
}
