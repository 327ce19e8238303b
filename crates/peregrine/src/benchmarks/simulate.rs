//! `peregrine bench simulate`: what a node would do under load, by the real scheduler and a computed clock.

use crate::hub_args::HubArgs;
use crate::output::print;
use crate::plan::models::Model;
use anyhow::{Context, Result, ensure};
use bench::simulate::{Plan, simulate};
use clap::{Args, value_parser};
use runtime::BackendFootprints;
use sizing::{Asked, Backend, Node, NodeSite};
use step::BLOCK_TOKENS;

/// Arguments of `peregrine bench simulate`.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// The model, of which only its shape is used: a folder, ORG/NAME[@REVISION] of the Hugging Face hub, or a JumpStart id.
    #[arg(long, value_name = "MODEL", default_value = "huggingface-llm-falcon-180b-bf16")]
    model: String,
    #[command(flatten)]
    hub: HubArgs,
    /// The node, by its instance type; the id's usual one if not given, or p4de.24xlarge for a folder.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// How many ranks; one for each of the node's GPUs if not given.
    #[arg(long, value_name = "N")]
    tensor_parallel: Option<usize>,
    /// The most tokens that one step computes, over all requests.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = value_parser!(u32).range(1..=65_536))]
    max_batch_tokens: u32,
    /// The most requests that run at once.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=65_536))]
    max_concurrent_requests: u32,
    /// Requests, all at once, by which throughput is measured.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Simulates, and prints what came of it.
pub fn run(args: &SimulateArgs) -> Result<()> {
    let model = Model::open(&args.model, &args.hub)?;
    let node = Node::named(args.node.as_deref().unwrap_or(model.default_node))?;
    let (name, gpus) = (node.name, node.gpus);
    let world = args.tensor_parallel.unwrap_or(gpus);
    ensure!((1..=gpus).contains(&world), "--tensor-parallel is {world}, expected 1 to {gpus}: the GPUs of {name}");
    let site = NodeSite { node, backend: Backend::Cuda, footprints: &BackendFootprints };
    let asked = Asked::new(&model.config, None, Some(args.max_batch_tokens), Some(args.max_concurrent_requests));
    let fit = sizing::fit(&model.config, world, &site, &asked)
        .with_context(|| format!("{} over {world} GPUs of {name}", model.name))?;
    let plan = Plan {
        name: model.name,
        config: model.config,
        node,
        world,
        kv_tokens: fit.kv_blocks as usize * BLOCK_TOKENS,
        step_rows_max: args.max_batch_tokens as usize,
        sequences_max: args.max_concurrent_requests.min(args.max_batch_tokens) as usize,
        requests: args.requests as usize,
    };
    let simulation = simulate(&plan).context("the KV cache has no room for a request")?;
    print(&if args.json { simulation.json() } else { simulation.markdown() })
}
