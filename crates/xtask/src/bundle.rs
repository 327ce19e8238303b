//! `cargo xtask gpu-bundle`: what a machine with a GPU needs to run scripts/gpu-check, and has neither Rust nor a network for.

use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Files of the tree that go along: small models of different shapes, with what an independent implementation says of them.
const FILES: [&str; 5] = [
    "scripts/gpu-check",
    "testdata/golden/tiny-falcon-180b.json",
    "testdata/golden/tiny-falcon-rw.json",
    "testdata/models/tiny-falcon-180b",
    "testdata/models/tiny-falcon-rw",
];
/// The tree and its bundle together.
const BYTES_MAX: u64 = 63 << 20;

/// Builds the bundle, by default as target/gpu-check.tar.gz.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let out = match arguments {
        [] => root.join("target/gpu-check.tar.gz"),
        [flag, path] if flag == "--out" => PathBuf::from(path),
        _ => bail!("gpu-bundle: expected nothing or --out FILE, found {arguments:?}"),
    };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    command("cargo", root, &["build", "--release", "--locked", "--package", "gpu-check"])?;
    let folder = target.join("gpu-bundle");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let bundle = folder.join("gpu-check");
    std::fs::create_dir_all(bundle.join("bin"))?;
    let [program, stripped] = [target.join("release/gpu-check"), bundle.join("bin/gpu-check")];
    let [program, stripped] = [program, stripped].map(|path| path.to_string_lossy().into_owned());
    // Ten times smaller without what only a debugger reads.
    command("strip", root, &["-o", &stripped, &program])?;
    for file in FILES {
        let to = bundle.join(file);
        std::fs::create_dir_all(to.parent().expect("files lie in folders"))?;
        command("cp", root, &["-R", file, &to.to_string_lossy()])?;
    }
    let (folder, archive) = (folder.to_string_lossy(), out.to_string_lossy());
    // Equal files give equal bundles.
    let fixed = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"];
    command("tar", root, &[&fixed[..], &["-C", &folder, "-czf", &archive, "gpu-check"]].concat())?;
    let bytes = std::fs::metadata(&out).with_context(|| out.display().to_string())?.len();
    let tree = crate::tidy::tree_bytes(root)?;
    println!("{}: {bytes} bytes; with the tree {} of {BYTES_MAX}", out.display(), bytes + tree);
    ensure!(bytes + tree <= BYTES_MAX, "the tree and the bundle have {} bytes, at most {BYTES_MAX}", bytes + tree);
    Ok(ExitCode::SUCCESS)
}

fn command(program: &str, root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program).args(arguments).current_dir(root).status();
    let status = status.with_context(|| format!("{program} cannot be run"))?;
    ensure!(status.success(), "{program} {}: {status}", arguments.join(" "));
    Ok(())
}
