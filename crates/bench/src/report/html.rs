//! One file with tables and plots, which needs nothing else.

use super::style::style;
use super::svg::{Curve, Mark, Plot, escape, swatch};
use super::{FAILURES_HEADER, HEADER, Run, counted, failure_rows, row};
use crate::environment::{Environment, rfc3339};
use crate::metrics::{Distribution, concurrency, tokens_by_second};
use std::fmt::Write;

/// Points of one curve, at most.
const POINTS_MAX: usize = 400;

/// On narrow screens plots shrink, so their text is larger there. Tables scroll.
const STYLE: &str = "\
:root{color-scheme:light}\
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:1.5em auto;padding:0 12px;color:#222;background:#fff;\
overflow-wrap:anywhere}\
h1{font-size:24px}h2{font-size:17px;margin:.8em 0 .2em}\
dl{display:grid;grid-template-columns:auto 1fr;gap:0 1em;margin:0 0 1em}dt{color:#555}dd{margin:0}\
.scroll{overflow-x:auto;margin:0 0 1em}table{border-collapse:collapse;font-size:13px;overflow-wrap:normal}\
td,th{border:1px solid #ccc;padding:3px 8px;text-align:right;white-space:nowrap}td:first-child,th:first-child{text-align:left}\
.failures td:last-child{text-align:left;white-space:normal;min-width:240px;overflow-wrap:anywhere}\
.key{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:2px 16px;list-style:none;padding:0}\
.key li{display:flex;gap:8px;align-items:center;font-size:13px}.swatch{flex:none;width:38px;height:14px}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:0 1em}\
.plot{width:100%;height:auto}.plot text{font-size:12px;fill:#444}.grid{stroke:#e4e4e4;fill:none}\
.plot polyline{fill:none;stroke-width:1.8}.plot .join{stroke:#bbb;stroke-width:1}\
@media(max-width:600px){h1{font-size:20px}dl{display:block}.plot text{font-size:16px}}";

/// The whole file.
pub(crate) fn html(runs: &[Run], environment: &Environment) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Peregrine: load on a server</title><style>{STYLE}</style></head><body>\n<h1>Load on a server</h1>\n"
    );
    if let [first, .., last] | [first @ last] = runs {
        facts(runs, [first, last], environment, &mut page);
    }
    table("runs", &HEADER, runs.iter().map(row), &mut page);
    if runs.iter().any(|run| !run.failures.is_empty()) {
        page.push_str("<h2>Failed requests</h2>\n");
        table("failures", &FAILURES_HEADER, failure_rows(runs), &mut page);
    }
    page.push_str("<ul class=\"key\">\n");
    for (index, run) in runs.iter().enumerate() {
        let _ = writeln!(page, "<li>{}<span>{}</span></li>", swatch(style(index)), escape(&run.name()));
    }
    page.push_str("</ul>\n<div class=\"plots\">\n");
    for (title, plot) in plots(runs) {
        let _ = writeln!(page, "<section><h2>{title}</h2>\n{}</section>", plot.svg());
    }
    page.push_str("</div>\n</body></html>\n");
    page
}

/// What was measured, when, and where.
fn facts(runs: &[Run], [first, last]: [&Run; 2], environment: &Environment, page: &mut String) {
    let machine = &environment.machine;
    let memory_gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let told = |text: &str| if text.is_empty() { "not told".to_owned() } else { text.to_owned() };
    let facts = [
        ("model", told(&first.model_id)),
        ("server", format!("{}, over {}", told(&first.software), first.dialect)),
        ("output tokens", counted(runs)),
        ("runs started", format!("{} to {}", rfc3339(first.date), rfc3339(last.date))),
        ("measured from", format!("{}, {} cores, {memory_gib:.1} GiB, {}", machine.cpu, machine.cores, machine.os)),
        ("by", format!("Peregrine {}: {}", environment.version, environment.command)),
    ];
    page.push_str("<dl>\n");
    for (name, value) in facts {
        let _ = writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    }
    page.push_str("</dl>\n");
}

fn table<const N: usize>(class: &str, head: &[&str; N], rows: impl Iterator<Item = [String; N]>, page: &mut String) {
    let line = |tag: &str, cells: &[String]| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{}</tr>\n", cells.concat())
    };
    let _ = write!(page, "<div class=\"scroll\"><table class=\"{class}\">\n{}", line("th", &head.map(str::to_owned)));
    for cells in rows {
        page.push_str(&line("td", &cells));
    }
    page.push_str("</table></div>\n");
}

fn plots(runs: &[Run]) -> [(&'static str, Plot<'static>); 5] {
    let curves = |points: &dyn Fn(&Run) -> Vec<(f64, f64)>| -> Vec<Curve> {
        let curve =
            |(index, run): (usize, &Run)| Curve { name: run.name(), points: points(run), style: Some(style(index)) };
        runs.iter().enumerate().map(curve).collect()
    };
    let of_runs =
        |x, y, points: &dyn Fn(&Run) -> Vec<(f64, f64)>| Plot { x, y, curves: curves(points), marks: Vec::new() };
    [
        ("Throughput over latency", throughput(runs)),
        ("Time to first token (TTFT)", of_runs("ms", "% of requests at or below", &|run| shares(&run.metrics.ttft))),
        ("Inter-token latency (ITL)", of_runs("ms", "% of messages at or below", &|run| shares(&run.metrics.itl))),
        ("Tokens over time", of_runs("s", "output tokens/s", &tokens)),
        ("Requests over time", of_runs("s", "requests under way", &running)),
    ]
}

/// A mark for each run, and a thin line through those of the same dataset.
fn throughput(runs: &[Run]) -> Plot<'static> {
    let (mut curves, mut marks): (Vec<Curve>, Vec<Mark>) = (Vec::new(), Vec::new());
    for (index, run) in runs.iter().enumerate().filter(|(_, run)| !run.metrics.tpot.values().is_empty()) {
        let at = (run.metrics.tpot.median(), run.metrics.output_throughput());
        marks.push(Mark { at, label: run.name(), style: style(index) });
        match curves.iter_mut().find(|curve| curve.name == run.dataset) {
            Some(curve) => curve.points.push(at),
            None => curves.push(Curve { name: run.dataset.clone(), points: vec![at], style: None }),
        }
    }
    Plot { x: "median TPOT, ms", y: "output tokens/s", curves, marks }
}

/// How many percent of the values are at or below each.
fn shares(of: &Distribution) -> Vec<(f64, f64)> {
    let values = of.values();
    let stride = values.len().div_ceil(POINTS_MAX).max(1);
    let share = |index: usize| (index + 1) as f64 * 100.0 / values.len() as f64;
    // The largest one must be among them.
    let indices = (0..values.len()).rev().step_by(stride).collect::<Vec<_>>().into_iter().rev();
    indices.map(|index| (values[index], share(index))).collect()
}

fn tokens(run: &Run) -> Vec<(f64, f64)> {
    let seconds = tokens_by_second(&run.ran);
    stairs((0..).map(f64::from).zip(seconds).chain([(run.ran.duration, 0.0)]))
}

fn running(run: &Run) -> Vec<(f64, f64)> {
    let changes = concurrency(&run.ran);
    let stride = changes.len().div_ceil(POINTS_MAX).max(1);
    stairs(changes.into_iter().map(|(time, running)| (time, running as f64)).step_by(stride))
}

/// From each value straight on to the time of the next.
fn stairs(changes: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (x, value) in changes {
        let before = points.last().map_or(0.0, |last| last.1);
        points.extend([(x, before), (x, value)]);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{environment, run};

    #[test]
    fn a_report_needs_nothing_else() {
        let page = html(&[run(), run()], &environment());
        assert_eq!(
            (page.matches("<svg class=\"plot\"").count(), page.matches("<svg class=\"swatch\"").count()),
            (5, 2)
        );
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        for outside in ["http://", "https://", "src=", "href=", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // Runs, and why requests failed.
        assert_eq!(page.matches("<tr>").count(), 3 + 3);
        for fact in ["2023-11-14T22:13:20Z", "CPU &lt;1&gt;, 2 cores, 3.0 GiB, Linux", "Peregrine 1.2.3", "1 × gone"] {
            assert!(page.contains(fact), "{fact}");
        }
        assert!(html(&[], &environment()).ends_with("</html>\n"));
    }

    #[test]
    fn sixteen_runs_have_a_style_and_a_name_each() {
        let runs: Vec<Run> = (1..=16).map(|limit| Run { concurrency_max: Some(limit), ..run() }).collect();
        let page = html(&runs, &environment());
        for (index, run) in runs.iter().enumerate() {
            let entry = format!("{}<span>{}</span>", swatch(style(index)), run.name());
            assert_eq!(page.matches(&entry).count(), 1, "{entry}");
        }
    }

    #[test]
    fn a_run_without_answers_has_no_mark() {
        let mut failed = run();
        failed.ran.outcomes.retain(|outcome| outcome.error.is_some());
        failed.metrics = crate::metrics::Metrics::of(&failed.ran, &[]);
        assert_eq!(throughput(&[run(), failed]).marks.len(), 1);
    }

    #[test]
    fn curves_go_up_to_all() {
        let points = shares(&Distribution::of((0..1000).map(f64::from).collect()));
        assert!(points.len() <= POINTS_MAX, "{}", points.len());
        assert_eq!(points.last(), Some(&(999.0, 100.0)));
        let expected =
            [(0.0, 0.0), (0.0, 1.0), (0.25, 1.0), (0.25, 2.0), (1.0, 2.0), (1.0, 1.0), (1.5, 1.0), (1.5, 0.0)];
        assert_eq!(running(&run()), expected);
    }
}
