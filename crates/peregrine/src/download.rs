//! `peregrine download`.

use crate::hub_args::HubArgs;
use crate::output::print;
use crate::signals::Signals;
use crate::threads::start_runtime;
use anyhow::Result;
use clap::Args;
use source::{Freshness, Wanted};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
The folder is printed. It is that of Hugging Face's cache, which their own tools read and write, too. What is there is not downloaded again; \
what was cut goes on where it was cut. HF_TOKEN, or `hf auth login`, says who asks; HF_ENDPOINT names a mirror, and HTTPS_PROXY a proxy.";

/// What to download.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct DownloadArgs {
    /// The model: ORG/NAME[@REVISION] of the Hugging Face hub, or a JumpStart id.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
}

/// Downloads what is not there, and prints the folder.
pub fn run(args: &DownloadArgs) -> Result<ExitCode> {
    start_runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            dir = args.hub.folder(&args.model, Wanted::Model, Freshness::Newest) => {
                print(&format!("{}\n", dir?.display()))?;
                Ok(ExitCode::SUCCESS)
            }
            code = signals.next() => Ok(ExitCode::from(code)),
        }
    })
}
