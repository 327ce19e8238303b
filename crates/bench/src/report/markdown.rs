//! Tables to read.

use super::Run;
use crate::metrics::Distribution;
use std::fmt::Write;

/// Median latency per token that was published for models on SageMaker JumpStart, over such prompts, in milliseconds.
const JUMPSTART: [(&str, &str, u32); 3] =
    [("Falcon-7B", "ml.g5.2xlarge", 34), ("Falcon-40B", "ml.g5.12xlarge", 57), ("Falcon-180B", "ml.p4de.24xlarge", 45)];

/// A row for each run.
pub(crate) fn markdown(runs: &[Run]) -> String {
    let mut table = String::from(
        "| dataset | load | done / failed | req/s | output tok/s | TTFT p50 / p99 ms | ITL p50 / p99 ms \
         | TPOT p50 ms | E2E p50 / p99 ms | goodput req/s |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let m = &run.metrics;
        let pair = |of: &Distribution| figures(of, &[50.0, 99.0]);
        let goodput = m.good.map_or_else(|| "–".to_owned(), |good| format!("{:.2}", m.rate(good as f64)));
        let _ = writeln!(
            table,
            "| {} | {} | {} / {} | {:.2} | {:.1} | {} | {} | {} | {} | {goodput} |",
            run.dataset,
            run.load(),
            m.completed,
            m.failed,
            m.rate(m.completed as f64),
            m.output_throughput(),
            pair(&m.ttft),
            pair(&m.itl),
            figures(&m.tpot, &[50.0]),
            pair(&m.e2el),
        );
    }
    table
}

/// Percentiles, or a dash where nothing was measured.
fn figures(of: &Distribution, percents: &[f64]) -> String {
    let figures: Vec<_> = percents.iter().map(|&percent| format!("{:.1}", of.percentile(percent))).collect();
    if of.values().is_empty() { "–".to_owned() } else { figures.join(" / ") }
}

/// The median latency per token of a run over the examples, beside what was published.
pub(crate) fn jumpstart(run: &Run) -> String {
    let mut table = String::from("| model | on | median latency per token, ms |\n|---|---|---|\n");
    for (model, instance, ms) in JUMPSTART {
        let _ = writeln!(table, "| {model} | {instance}, SageMaker JumpStart, published | {ms} |");
    }
    let model = if run.model_id.is_empty() { "this server's" } else { &run.model_id };
    let _ = writeln!(table, "| {model} | this server, {} | {:.1} |", run.load(), run.metrics.per_token.median());
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run;

    #[test]
    fn a_run_is_a_row() {
        let table = markdown(&[run()]);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.matches('|').count() == 11), "{table}");
        assert!(rows[2].starts_with("| 10/3 | 2 at once | 2 / 1 | 1.33 | 3.3 | 375.0 / 497.5 |"), "{table}");
        let table = jumpstart(&run());
        assert!(table.contains("| demo | this server, 2 at once | 479.2 |") && table.contains("| 34 |"), "{table}");
    }
}
