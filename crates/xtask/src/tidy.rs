//! `cargo xtask tidy`: the repository's rules as code. A rule takes the tree and gives what violates it.

mod crates;
mod dependencies;
mod files;
mod functions;
mod kernels;
mod leftovers;
mod manifests;
mod safety;
mod tree;

pub use crates::write as write_architecture;
use std::path::Path;
use std::process::ExitCode;
use tree::Tree;

type Rule = fn(&Tree) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("dependencies point downward", dependencies::check),
    ("the table of crates is shown", crates::check),
    ("functions are short", functions::check),
    ("unsafe code is where it may be, and argued", safety::check),
    ("manifests inherit from the workspace", manifests::check),
    ("files are clean and small", files::check),
    ("kernels are complete", kernels::check),
    ("nothing is left over", leftovers::check),
];

/// Bytes of all files of the tree.
pub fn tree_bytes(root: &Path) -> anyhow::Result<u64> {
    Ok(Tree::of_repository(root)?.files.iter().map(|file| file.bytes as u64).sum())
}

/// Prints every violation of every rule; the exit code is 1 if there is one.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(arguments.is_empty(), "tidy takes no arguments, found {arguments:?}");
    let tree = Tree::of_repository(root)?;
    let mut violations = 0;
    for (rule, check) in RULES {
        for violation in check(&tree) {
            println!("tidy: {rule}: {violation}");
            violations += 1;
        }
    }
    println!("tidy: {} files, {} rules, {violations} violations", tree.files.len(), RULES.len());
    Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
