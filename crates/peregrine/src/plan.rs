//! `peregrine plan`: how a model is cut over a node's GPUs, whether it fits, and how fast it should be. Reads `config.json`
//! alone.

pub mod models;
mod text;

use crate::output::print;
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use models::Model;
use node::{Node, Plan, Prediction};
use serde::Serialize;

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
    /// Predict the time of steps on the node's GPUs, and print what the prediction rests on.
    #[arg(long)]
    predict: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Where the model is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// A GPU for each rank; the KV cache is bf16.
    Cuda,
    /// An even share of the host's memory for each rank; the KV cache is f32.
    Cpu,
}

impl From<Backend> for node::Backend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Cuda => Self::Cuda,
            Backend::Cpu => Self::Cpu,
        }
    }
}

/// All that is printed.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    plan: Plan,
    /// If it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<Prediction>,
}

/// Prints the plan.
pub fn run(args: &PlanArgs) -> Result<()> {
    print(&report(args)?)
}

fn report(args: &PlanArgs) -> Result<String> {
    let model = Model::open(&args.model)?;
    let node = Node::named(args.node.as_deref().unwrap_or(model.default_node))?;
    let (name, gpus) = (node.name, node.gpus);
    let world = args.tensor_parallel.unwrap_or(gpus);
    ensure!((1..=gpus).contains(&world), "--tensor-parallel is {world}, expected 1 to {gpus}: the GPUs of {name}");
    ensure!(!args.predict || args.backend == Backend::Cuda, "--predict: times are known for --backend cuda alone");
    let plan = Plan::new(&model.name, &model.config, node, world, args.backend.into());
    // What does not fit does not run.
    let predicted = args.predict && plan.fits;
    let prediction = predicted.then(|| Prediction::new(&model.config, node, world, plan.kv_tokens));
    let report = Report { plan, prediction };
    Ok(if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        let prediction = report.prediction.as_ref().map(|it| "\n".to_owned() + &text::render_prediction(it));
        text::render(&report.plan, node) + &prediction.unwrap_or_default()
    })
}

#[cfg(test)]
mod tests;
