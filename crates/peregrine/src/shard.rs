//! `peregrine shard`.

use crate::engine_args::ranks;
use crate::hub_args::{self, HubArgs};
use crate::progress::Bytes;
use crate::threads::start_runtime;
use crate::units::gb;
use anyhow::{Context, Result, ensure};
use clap::Args;
use source::{Freshness, StoreUrl, Upload, Uploads, Wanted};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tracing::info;
use weights::{Checkpoint, CutFile, CutFolder, CutTarget, Cutting};

/// Arguments of `peregrine shard`.
#[derive(Args, Debug)]
pub struct ShardArgs {
    /// The model: a folder with config.json and safetensors files, ORG/NAME[@REVISION] of the Hugging Face hub, a JumpStart id, or the
    /// URL of an object store.
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// Workers over which the model is to be sharded.
    #[arg(long, value_name = "N", value_parser = ranks())]
    tensor_parallel: u32,
    /// Where the files go: one for each worker, a manifest, and the config and the tokenizer of the model. A folder, or
    /// s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.
    #[arg(long, value_name = "DIR|URL")]
    out: PathBuf,
}

/// Cuts the model, and says what has come of it.
pub fn run(args: &ShardArgs) -> Result<()> {
    let url = args.out.to_str().and_then(StoreUrl::parse).transpose().context("--out")?;
    let runtime = start_runtime()?;
    let dir = runtime.block_on(args.hub.folder(&args.model, Wanted::Model, Freshness::AsCached))?;
    let checkpoint = Checkpoint::open(&dir)?;
    let cutting = Cutting::new(&dir, &checkpoint, args.tensor_parallel as usize)?;
    match url {
        Some(url) => {
            let uploads = runtime.block_on(Uploads::open(&url, &hub_args::store_settings(None))).context("--out")?;
            write(&cutting, &mut ToStore(uploads))?;
        }
        None => {
            let mut folder = CutFolder::new(&args.out).context("--out")?;
            check_room(&args.out, cutting.bytes())?;
            write(&cutting, &mut folder)?;
            folder.finish()?;
        }
    }
    let (bytes, files) = (gb(cutting.bytes()), args.tensor_parallel);
    info!("{}: {bytes} GB in {files} files for --tensor-parallel {files}", args.out.display());
    Ok(())
}

fn write(cutting: &Cutting<'_>, target: &mut dyn CutTarget) -> Result<()> {
    let progress = Bytes::start("cutting", cutting.bytes());
    let written = cutting.write(target, &mut |done| progress.set(done));
    progress.end();
    Ok(written.map(drop)?)
}

fn check_room(dir: &Path, needed: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(dir).with_context(|| dir.display().to_string())?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        free >= needed,
        "--out {}: {} GB are needed, and {} GB are free there",
        dir.display(),
        gb(needed),
        gb(free)
    );
    Ok(())
}

/// An object store. `weights` says what is written, and `source` knows stores; neither knows the other.
struct ToStore(Uploads);

struct Sent(BufWriter<Upload>);

/// Runs of a tensor that is cut by columns are short.
const BUFFER_BYTES: usize = 1 << 20;

impl CutTarget for ToStore {
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn CutFile>> {
        Ok(Box::new(Sent(BufWriter::with_capacity(BUFFER_BYTES, self.0.create(name, bytes)?))))
    }
}

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl CutFile for Sent {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.into_inner()?.finish()
    }
}
