//! A plan as a person reads it.

use super::{Report, Target};
use crate::units::{gb, grouped};
use roofline::{LaunchPrediction, Prediction, StepPrediction};
use sizing::{Backend, Plan, PlannedFit, RankPlan};

/// The plan, made for `target`, as text.
pub fn render(report: &Report, target: &Target) -> String {
    let plan = &report.plan;
    let (world, verdict) = (plan.tensor_parallel, if plan.fits { "fits" } else { "does not fit" });
    let cache = match plan.backend {
        Backend::Cuda => "KV cache in bf16",
        Backend::Cpu => "KV cache in f32",
    };
    let facts: String = facts(report, target).iter().map(|(label, fact)| format!("{label:<12}{fact}\n")).collect();
    let (Plan { model, node, .. }, table, devices) = (plan, table(plan), &target.devices);
    format!("{model} on {node}: {verdict}\ntensor-parallel {world} on {devices}, {cache}\n\n{table}\n{facts}")
}

/// A row for each rank, in right-aligned columns.
fn table(plan: &Plan) -> String {
    let last = if plan.fits { "in all" } else { "bytes short" };
    let titles = ["rank", "query heads", "KV heads", "FFN columns", "vocabulary", "weights", "KV a token", last];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(plan.ranks.iter().map(|rank| {
        let all = rank.weight_bytes + rank.kv_bytes + rank.activation_bytes + rank.scratch_bytes;
        let last = if plan.fits { format!("{} GB", gb(all)) } else { grouped(rank.short_by_bytes) };
        [
            rank.rank.to_string(),
            range(rank.q_heads),
            range(rank.kv_heads),
            range(rank.ffn),
            range(rank.vocab),
            format!("{} GB", gb(rank.weight_bytes)),
            format!("{} B", grouped(rank.kv_bytes_per_token)),
            last,
        ]
    }));
    aligned(&rows)
}

/// Right-aligned columns.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

/// A prediction as text: steps, what a step of one sequence consists of, and what all rests on.
pub fn render_prediction(prediction: &Prediction) -> String {
    let Prediction { note, context, .. } = prediction;
    let decode = steps("sequences", prediction, &prediction.decode);
    let prompts = steps("prompt", prediction, &prediction.prompts);
    let launches = launches(&prediction.launches);
    let assumptions: String =
        prediction.assumptions.iter().map(|it| format!("  {}\n      {}\n", it.what, it.source)).collect();
    format!(
        "PREDICTION ({note})\n\n\
         a token for each of so many sequences of {context} tokens, in ms\n{decode}\n\
         a prompt of so many tokens, to its first token, in ms\n{prompts}\n\
         a step of one sequence, launch by launch, on each rank\n{launches}\n\
         this rests on\n{assumptions}"
    )
}

fn steps(size: &str, prediction: &Prediction, steps: &[StepPrediction]) -> String {
    let at = |percent: f64| format!("at {percent} % of plain read");
    let (predicted, lower) = (at(prediction.read_percent), at(prediction.lower_read_percent));
    let titles = [size, "floor", &predicted, &lower, "stock kernels"];
    let mut rows = vec![titles.map(str::to_owned)];
    let ms = |ms: f64| format!("{ms:.2}");
    rows.extend(steps.iter().map(|step| {
        let StepPrediction { size, floor_ms, predicted_ms, predicted_at_lower_ms, stock_ms } = *step;
        [grouped(size), ms(floor_ms), ms(predicted_ms), ms(predicted_at_lower_ms), ms(stock_ms)]
    }));
    aligned(&rows)
}

fn launches(launches: &[LaunchPrediction]) -> String {
    let titles = ["launch", "times", "bytes", "bytes over the link", "floor µs", "predicted µs"];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(launches.iter().map(|launch| {
        [
            launch.name.to_owned(),
            launch.times.to_string(),
            grouped(launch.bytes),
            grouped(launch.link_bytes),
            format!("{:.2}", launch.floor_us),
            format!("{:.2}", launch.predicted_us),
        ]
    }));
    aligned(&rows)
}

/// What holds for the plan as a whole, each with its label.
fn facts(report: &Report, target: &Target) -> Vec<(&'static str, String)> {
    let plan = &report.plan;
    let weights: u64 = plan.ranks.iter().map(|rank| rank.weight_bytes).sum();
    let (billions, format) = (plan.parameters as f64 / 1e9, plan.weight_format);
    let mut facts = vec![
        ("parameters", format!("{billions:.2} billion; in {format} {} GB over all ranks", gb(weights))),
        ("memory", memory(plan)),
        ("reserve", reserve(plan, target)),
    ];
    let (tokens, length) = (grouped(plan.kv_tokens as u64), grouped(plan.sequence_tokens as u64));
    if plan.fits {
        let sequences = grouped((plan.kv_tokens / plan.sequence_tokens) as u64);
        facts.push(("KV cache", format!("{tokens} tokens: {sequences} sequences of {length}")));
        facts.push(("steps", format!("up to {} tokens", grouped(plan.step_tokens as u64))));
    } else {
        facts.push(("short by", format!("{} bytes a rank", grouped(fullest(plan).short_by_bytes))));
        facts.extend(plan.problem.clone().map(|problem| ("why", problem)));
        facts.push(("would fit", would_fit(plan)));
    }
    facts.extend(report.checkpoint.clone().map(|found| ("checkpoint", found)));
    facts.push(("note", plan.note.to_owned()));
    facts.extend(report.serve.clone().map(|command| ("serve", command)));
    facts
}

/// What a rank has, and what for: of the fullest, if they differ.
fn memory(plan: &Plan) -> String {
    let RankPlan { weight_bytes, kv_bytes, activation_bytes, scratch_bytes, .. } = *fullest(plan);
    let needed = weight_bytes + kv_bytes + activation_bytes + scratch_bytes + plan.reserve_bytes;
    format!(
        "{} GB a rank, {} needed: {} weights + {} KV cache + {} activations + {} scratch + {} reserve",
        gb(plan.memory_bytes),
        gb(needed),
        gb(weight_bytes),
        gb(kv_bytes),
        gb(activation_bytes),
        gb(scratch_bytes),
        gb(plan.reserve_bytes)
    )
}

fn reserve(plan: &Plan, target: &Target) -> String {
    let reserves = target.site.reserves(plan.tensor_parallel);
    let parts: Vec<String> = reserves.iter().map(|reserve| format!("{} {}", gb(reserve.bytes), reserve.what)).collect();
    format!("{} GB a rank: {}", gb(plan.reserve_bytes), parts.join(" + "))
}

fn fullest(plan: &Plan) -> &RankPlan {
    plan.ranks.iter().max_by_key(|rank| (rank.short_by_bytes, rank.weight_bytes)).expect("there is a rank")
}

fn would_fit(plan: &Plan) -> String {
    let fits = plan.would_fit.iter().map(|PlannedFit { node, tensor_parallel, kv_tokens }| {
        format!("{node} --tensor-parallel {tensor_parallel} ({} KV tokens)", grouped(*kv_tokens as u64))
    });
    let fits: Vec<String> = fits.collect();
    if fits.is_empty() { "on no known node".to_owned() } else { fits.join("\n            ") }
}

fn range([start, end]: [usize; 2]) -> String {
    format!("{start}..{end}")
}
