//! The files that the rules are checked over.

use anyhow::{Context, ensure};
use std::path::Path;
use std::process::Command;

/// Files that git tracks, or would with `git add .`, in order of their paths.
pub(super) struct Tree {
    pub(super) files: Vec<SourceFile>,
}

pub(super) struct SourceFile {
    /// From the repository's root, with `/`.
    pub(super) path: String,
    pub(super) bytes: usize,
    /// `None` if the file is not UTF-8.
    pub(super) text: Option<String>,
}

impl Tree {
    pub(super) fn of_repository(root: &Path) -> anyhow::Result<Self> {
        let listing = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
            .current_dir(root)
            .output()
            .context("running git")?;
        ensure!(listing.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listing.stderr));
        let listing = String::from_utf8(listing.stdout).context("a path that is not UTF-8")?;
        let mut files = Vec::new();
        for path in listing.split_terminator('\0') {
            let absolute = root.join(path);
            // Tracked, but deleted in the working tree.
            if !absolute.is_file() {
                continue;
            }
            let content = std::fs::read(&absolute).with_context(|| format!("reading {path}"))?;
            files.push(SourceFile::new(path, content));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files })
    }

    /// The text files whose names end so, with their paths.
    pub(super) fn texts<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let named = self.files.iter().filter(move |file| file.path.ends_with(ending));
        named.filter_map(|file| Some((&*file.path, file.text.as_deref()?)))
    }

    /// The manifests of the crates, with the crates' names.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts("/Cargo.toml").filter_map(|(path, text)| {
            let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
            Some((name, text))
        })
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| SourceFile::new(path, text.as_bytes().to_vec())).collect() }
    }
}

impl SourceFile {
    pub(super) fn new(path: &str, content: Vec<u8>) -> Self {
        Self { path: path.to_owned(), bytes: content.len(), text: String::from_utf8(content).ok() }
    }
}
