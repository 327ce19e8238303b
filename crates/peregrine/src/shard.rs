//! `peregrine shard`.

use crate::engine_args::ranks;
use crate::progress::Bytes;
use crate::units::gb;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};
use tracing::info;
use weights::{Checkpoint, CutFolder, Cutting};

/// Arguments of `peregrine shard`.
#[derive(Args, Debug)]
pub struct ShardArgs {
    /// Folder of the model, with config.json and safetensors files.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Workers over which the model is to be sharded.
    #[arg(long, value_name = "N", value_parser = ranks())]
    tensor_parallel: u32,
    /// Folder for the files: one for each worker, a manifest, and the config and the tokenizer of the model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Cuts the model, and says what has come of it.
pub fn run(args: &ShardArgs) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let cutting = Cutting::new(&args.model, &checkpoint, args.tensor_parallel as usize)?;
    let mut folder = CutFolder::new(&args.out).context("--out")?;
    check_room(&args.out, cutting.bytes())?;
    let progress = Bytes::start("cutting", cutting.bytes());
    let manifest = cutting.write(&mut folder, &mut |done| progress.set(done))?;
    folder.finish()?;
    progress.end();
    let (bytes, files) = (gb(cutting.bytes()), manifest.ranks.len());
    info!("{}: {bytes} GB in {files} files for --tensor-parallel {files}", args.out.display());
    Ok(())
}

fn check_room(dir: &Path, needed: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(dir).with_context(|| dir.display().to_string())?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(free >= needed, "--out {}: {} GB are needed, and {} GB are free there", dir.display(), gb(needed), gb(free));
    Ok(())
}
