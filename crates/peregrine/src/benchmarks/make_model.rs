//! Arguments of `peregrine bench make-model`.

use super::ShapeArg;
use crate::output::print;
use anyhow::Result;
use bench::make_model::MakeModelOptions;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `peregrine bench make-model`.
#[derive(Args, Debug)]
pub struct MakeModelArgs {
    /// Folder to make.
    dir: PathBuf,
    /// The model's shape.
    #[arg(long, value_enum, default_value_t = ShapeArg::Small)]
    shape: ShapeArg,
    /// A tokenizer.json to put beside the weights; the demo model's if not given. Tokens that it lacks have no text.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

/// Writes the folder.
pub fn run(args: MakeModelArgs) -> Result<()> {
    let options = MakeModelOptions { dir: args.dir, shape: args.shape.into(), tokenizer: args.tokenizer };
    let bytes = bench::make_model::run(&options)?;
    print(&format!("{}: {:.2} GB of random weights\n", options.dir.display(), bytes as f64 / 1e9))
}
