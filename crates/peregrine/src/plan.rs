//! `peregrine plan`: how a model is cut over a node's GPUs, and whether it fits. Reads `config.json` alone.

mod budget;
mod models;
mod nodes;
mod text;

use anyhow::{Result, ensure};
use budget::Plan;
use clap::Args;
use models::Model;
use nodes::{Backend, Node};

const AFTER_HELP: &str = "\
A model fits if every rank has room for its weights, a reserve, and the KV cache of one sequence of the longest length \
that the model was made for. The exit code is 0 whether or not it fits: `fits` in the JSON tells. All figures are \
computed; no weights are read, and no GPU is needed.";

/// What is to be planned.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct PlanArgs {
    /// Folder of the model, of which only config.json is read, or the JumpStart id of a published one:
    /// huggingface-llm-falcon-{7b,7b-instruct,40b,40b-instruct,180b,180b-chat}-bf16.
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// How many ranks; one for each of the node's GPUs if not given.
    #[arg(long, value_name = "N")]
    tensor_parallel: Option<usize>,
    /// The node, by its instance type; the id's usual one if not given, or p4de.24xlarge for a folder.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where the model is to run: which memory counts, and how the KV cache is stored.
    #[arg(long, value_enum, default_value_t = Backend::Cuda)]
    backend: Backend,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the plan.
pub fn run(args: &PlanArgs) -> Result<()> {
    print!("{}", report(args)?);
    Ok(())
}

fn report(args: &PlanArgs) -> Result<String> {
    let model = Model::open(&args.model)?;
    let node = Node::named(args.node.as_deref().unwrap_or(model.default_node))?;
    let (name, gpus) = (node.name, node.gpus);
    let world = args.tensor_parallel.unwrap_or(gpus);
    ensure!((1..=gpus).contains(&world), "--tensor-parallel is {world}, expected 1 to {gpus}: the GPUs of {name}");
    let plan = Plan::new(&model, node, world, args.backend);
    Ok(if args.json { serde_json::to_string_pretty(&plan)? + "\n" } else { text::render(&plan, node) })
}

#[cfg(test)]
mod tests;
