//! `peregrine doctor`: what a machine's GPUs are, and whether they can run a model. Nothing is loaded.

use crate::output::print;
use crate::units::gb;
use anyhow::{Result, bail, ensure};
use backend_cuda::{CUBLASLT, GpuLocality, Gpus, LIBRARY_PATH, Libraries, NCCL, Place, SYSFS, cpu_list, discover};
use clap::{Args, value_parser};
use runtime::{Wanted, room_of_gpus};
use std::path::PathBuf;
use step::BLOCK_TOKENS;

const AFTER_HELP: &str = "\
Every problem is told, each with what would mend it; the exit code is 1 if there is one. Without --strict, GPUs that cannot \
read each other's memory, and a missing NCCL, are told and tolerated: the ranks' sums then take another way, which is slower.";

/// What is to be looked at.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {
    /// Folder of the model for which there must be room, of which only config.json is read.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// How many ranks, each with a GPU; as many as there are GPUs if not given.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=64))]
    tensor_parallel: Option<u32>,
    /// Tokens for which each rank's KV cache must have room; those of one sequence if not given.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1 << 30))]
    kv_tokens: Option<u32>,
    /// GPUs must read each other's memory, and cuBLASLt and NCCL must be there.
    #[arg(long)]
    strict: bool,
    /// Where Linux describes the machine.
    #[arg(long, hide = true, value_name = "DIR", default_value = SYSFS)]
    sysfs: PathBuf,
}

/// Prints what is found.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let gpus = discover()?;
    let ranks = args.tensor_parallel.map_or(gpus.all.len(), |ranks| ranks as usize);
    let version = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    say("driver", &format!("CUDA {}", version(gpus.driver_version)))?;
    for gpu in &gpus.all {
        let locality = GpuLocality::of(gpu, &args.sysfs);
        let next_to = locality.map_or_else(|| "unknown".to_owned(), |it| place(&it));
        let ((major, minor), memory) = (gpu.capability, gb(gpu.memory_bytes));
        let line =
            format!("{}, compute capability {major}.{minor}, {memory} GB; cores next to it: {next_to}", gpu.name);
        say(&format!("GPU {}", gpu.ordinal), &line)?;
    }
    let mut problems = Vec::new();
    match gpus.for_ranks(ranks) {
        Err(error) => problems.push(error.to_string()),
        Ok(_) => {
            say("ranks", &format!("{ranks} of {} GPUs", gpus.all.len()))?;
            problems.extend(room(args, &gpus, ranks)?);
            let mut slower = if ranks > 1 { between_gpus(&gpus, ranks)? } else { Vec::new() };
            slower.extend(libraries(ranks)?);
            match args.strict {
                true => problems.extend(slower),
                false => slower.iter().try_for_each(|told| say("slower", told))?,
            }
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\nerror: "));
    print("ready\n")
}

/// Whether the model fits, if there is one.
fn room(args: &DoctorArgs, gpus: &Gpus, ranks: usize) -> Result<Option<String>> {
    let Some(dir) = &args.model else { return Ok(None) };
    if !dir.is_dir() {
        bail!("--model {}: there is no such folder", dir.display());
    }
    let config = weights::inspect(dir)?;
    let wanted = Wanted { kv_tokens: args.kv_tokens, step_rows: None, kv_tokens_most: u64::MAX };
    Ok(match room_of_gpus(gpus, &config, ranks, &wanted) {
        Ok((room, bytes)) => {
            let tokens = u64::from(room.kv_blocks) * BLOCK_TOKENS as u64;
            let bytes = gb(bytes);
            say("room", &format!("weights, logits and a KV cache of {tokens} tokens take {bytes} GB of each GPU"))?;
            None
        }
        Err(error) => Some(error.to_string()),
    })
}

/// Says where the libraries of `ranks` ranks are, and what is missing.
fn libraries(ranks: usize) -> Result<Vec<String>> {
    let wanted: &[_] = if ranks > 1 { &[&CUBLASLT, &NCCL] } else { &[&CUBLASLT] };
    let libraries = Libraries::find(wanted)?;
    for (library, place) in &libraries.places {
        match place {
            Place::Found => say(library.name, "where the loader finds it")?,
            Place::Linked(path) => say(library.name, &path.display().to_string())?,
            Place::Missing(_) => {}
        }
    }
    Ok(libraries.missing().map(|(_, told)| format!("{told}; add its folder to {LIBRARY_PATH}")).collect())
}

/// What stands in the way of fast sums between GPUs.
fn between_gpus(gpus: &Gpus, ranks: usize) -> Result<Vec<String>> {
    let mut told = Vec::new();
    match gpus.check_peer_access(ranks) {
        Ok(()) => say("peers", "every GPU reaches the memory of every other")?,
        Err(error) => told.push(error.to_string()),
    }
    Ok(told)
}

fn place(locality: &GpuLocality) -> String {
    let cores = cpu_list(&locality.cpus);
    locality.numa_node.map_or_else(|| cores.clone(), |node| format!("{cores} (node {node})"))
}

fn say(label: &str, text: &str) -> Result<()> {
    print(&format!("{label:<10}{text}\n"))
}
