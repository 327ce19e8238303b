//! Tables to read.

use super::{FAILURES_HEADER, HEADER, Run, failure_rows};
use std::fmt::Write;

/// Median latency per token that was published for models on SageMaker JumpStart, over such prompts, in milliseconds.
const JUMPSTART: [(&str, &str, u32); 3] =
    [("Falcon-7B", "ml.g5.2xlarge", 34), ("Falcon-40B", "ml.g5.12xlarge", 57), ("Falcon-180B", "ml.p4de.24xlarge", 45)];

/// The head of a table with a row for each run.
pub(crate) fn header() -> String {
    head(&HEADER)
}

/// The row of a run.
pub(crate) fn row(run: &Run) -> String {
    line(&super::row(run))
}

/// A table of why requests failed.
pub(crate) fn failures(runs: &[Run]) -> String {
    failure_rows(runs).fold(head(&FAILURES_HEADER), |table, row| table + &line(&row))
}

fn head(columns: &[&str]) -> String {
    format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()))
}

fn line(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
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
        let table = header() + &row(&run());
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.matches('|').count() == 11), "{table}");
        assert!(rows[2].starts_with("| 10/3 | 2 at once | 2 / 1 | 1.33 | 3.3 | 375.0 / 497.5 |"), "{table}");
        assert_eq!(failures(&[run()]).lines().last(), Some("| 10/3, 2 at once | 1 × gone |"));
        let table = jumpstart(&run());
        assert_eq!(line(&["a|b".to_owned()]), "| a\\|b |\n");
        assert!(table.contains("| demo | this server, 2 at once | 479.2 |") && table.contains("| 34 |"), "{table}");
    }
}
