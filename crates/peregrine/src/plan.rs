//! `peregrine plan`: how a model is cut over a machine, whether it fits, and how fast it should be. Reads
//! `config.json` and the headers of weights.

mod local;
pub mod models;
mod text;

use crate::engine_args::SizeArgs;
use crate::hub_args::HubArgs;
use crate::output::print;
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use local::LOCAL;
use models::Model;
use roofline::Prediction;
use runtime::BackendFootprints;
use serde::Serialize;
use sizing::{NODES, Node, NodeSite, Plan, Site};

const AFTER_HELP: &str = "\
A model fits if every rank has memory for its weights, a reserve, its steps, and the given KV cache, or else that of one sequence of \
the model's maximum length. The exit code is 0 whether or not it fits: see `fits` in the JSON. All figures are computed; no weights are \
read, but those of an output projection that is tied to the embedding table and stored beside it, and no GPU is needed.";

/// What to plan.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct PlanArgs {
    /// The model: a folder, of which config.json and the files' headers are read, ORG/NAME[@REVISION] of the Hugging Face hub,
    /// of which nothing large is downloaded, or a JumpStart id:
    /// huggingface-llm-falcon-{7b,7b-instruct,40b,40b-instruct,180b,180b-chat}-bf16.
    #[arg(long, value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    hub: HubArgs,
    /// Ranks. If not given: one for each GPU of the node, or one on CPUs.
    #[arg(long, value_name = "N")]
    tensor_parallel: Option<usize>,
    /// The node: an instance type, or `local` for this machine. If not given: the usual one of the id, or p4de.24xlarge for a
    /// folder.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where the model is to run: which memory counts, and how the KV cache is stored. If not given: the node's GPUs, or the CPUs
    /// of this machine where it has no GPU.
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Predict the time of a step on the node's GPUs, with every assumption.
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

impl From<Backend> for sizing::Backend {
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
    /// For a folder: `ok`, or what is to be known of its weights, or is wrong with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
    /// The command that serves the model so, if it fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    serve: Option<String>,
    /// If it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<Prediction>,
}

/// A machine that is planned for.
struct Target {
    name: String,
    /// Its devices, in words.
    devices: String,
    /// One of the catalogue, of which times can be predicted.
    node: Option<&'static Node>,
    site: Box<dyn Site>,
    /// The most ranks.
    ranks_max: usize,
    /// Ranks, if nobody says how many.
    ranks: usize,
}

/// Prints the plan.
pub fn run(args: &PlanArgs) -> Result<()> {
    print(&report(args)?)
}

fn report(args: &PlanArgs) -> Result<String> {
    let model = Model::open(&args.model, &args.hub)?;
    let target = target(args, &model)?;
    let (name, most) = (&target.name, target.ranks_max);
    let world = args.tensor_parallel.unwrap_or(target.ranks);
    ensure!(
        (1..=most).contains(&world),
        "--tensor-parallel is {world}, expected 1 to {most}: {} of {name}",
        target.devices
    );
    let predicts = target.node.filter(|_| target.site.backend() == sizing::Backend::Cuda);
    ensure!(!args.predict || predicts.is_some(), "--predict: times are known for the GPUs of known nodes alone");
    let asked = args.sizes.asked(&model.config);
    let backend = target.site.backend();
    let others = NODES.each_ref().map(|node| NodeSite { node, backend, footprints: &BackendFootprints });
    let others = others.each_ref().map(|site| (site.node.name, site.node.gpus, site as &dyn Site));
    let plan = Plan::new((&model.name, &model.config), (name, &*target.site), world, &asked, &others);
    // What does not fit does not run.
    let prediction = predicts
        .filter(|_| args.predict && plan.fits)
        .map(|node| Prediction::new(&model.config, node, world, plan.kv_tokens));
    let serve = plan.fits.then(|| serve_command(args, &plan));
    let report = Report { plan, checkpoint: model.checkpoint, serve, prediction };
    Ok(if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        let prediction = report.prediction.as_ref().map(|it| "\n".to_owned() + &text::render_prediction(it));
        text::render(&report, &target) + &prediction.unwrap_or_default()
    })
}

fn target(args: &PlanArgs, model: &Model) -> Result<Target> {
    let name = args.node.as_deref().unwrap_or(model.default_node);
    if name == LOCAL {
        return local::target(args.backend.map(Into::into));
    }
    let node = Node::named(name)?;
    let backend: sizing::Backend = args.backend.unwrap_or(Backend::Cuda).into();
    Ok(Target {
        name: node.name.to_owned(),
        devices: match backend {
            sizing::Backend::Cuda => format!("the {} GPUs ({})", node.gpus, node.gpu.name),
            sizing::Backend::Cpu => "the CPUs".to_owned(),
        },
        node: Some(node),
        site: Box::new(NodeSite { node, backend, footprints: &BackendFootprints }),
        ranks_max: node.gpus,
        ranks: node.gpus,
    })
}

/// The command that serves the model as it was planned; what was left to memory is left to it again.
fn serve_command(args: &PlanArgs, plan: &Plan) -> String {
    let backend = match plan.backend {
        sizing::Backend::Cuda => "cuda",
        sizing::Backend::Cpu => "cpu",
    };
    let model = [plan.model.clone()].into_iter().chain(args.hub.words());
    let model: Vec<String> = model.map(|word| shell_word(&word)).collect();
    let model = model.join(" ");
    let given = args.sizes.given().map(|(flag, value)| format!(" {flag} {value}"));
    let ranks = plan.tensor_parallel;
    format!(
        "peregrine serve --model {model} --backend {backend} --tensor-parallel {ranks}{}",
        given.collect::<String>()
    )
}

/// A word as a shell takes it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
