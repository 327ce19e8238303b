//! One file with tables and plots, which needs nothing else.

use super::svg::{COLOURS, Plot, Point, Series, escape};
use super::{Run, table};
use crate::metrics::{Distribution, concurrency, tokens_by_second};
use std::fmt::Write;

/// Points of one curve, at most.
const POINTS_MAX: usize = 400;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:3px 8px;text-align:right}\
    td:first-child,th:first-child{text-align:left}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(480px,1fr));gap:1em}\
    svg{width:100%;height:auto}svg text{font-size:11px;fill:#444}.grid{stroke:#e4e4e4;fill:none}\
    .key span{display:inline-block;width:12px;height:12px;margin:0 4px 0 14px}";

/// The whole file.
pub(crate) fn html(runs: &[Run]) -> String {
    let (header, rows) = table(runs);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Peregrine: load on a server</title>\
         <style>{STYLE}</style></head><body>\n<h1>Load on a server</h1>\n"
    );
    if let Some(run) = runs.first() {
        let _ = writeln!(page, "<p>{} — {} — over {}</p>", escape(&run.model_id), escape(&run.software), run.protocol);
    }
    html_table(&header, &rows, &mut page);
    page.push_str("<p class=\"key\">");
    for (run, colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        let _ = write!(page, "<span style=\"background:{colour}\"></span>{}", escape(&run.name()));
    }
    page.push_str("</p>\n<div class=\"plots\">\n");
    for (title, plot) in plots(runs) {
        let _ = writeln!(page, "<section><h2>{title}</h2>\n{}</section>", plot.svg());
    }
    page.push_str("</div>\n</body></html>\n");
    page
}

fn html_table(header: &[&str], rows: &[Vec<String>], page: &mut String) {
    let row = |tag: &str, cells: &[&str]| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{}</tr>\n", cells.concat())
    };
    page.push_str("<table>\n");
    page.push_str(&row("th", header));
    for cells in rows {
        page.push_str(&row("td", &cells.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    page.push_str("</table>\n");
}

fn plots(runs: &[Run]) -> [(&'static str, Plot<'static>); 5] {
    let each = |points: &dyn Fn(&Run) -> Vec<Point>| -> Vec<Series> {
        runs.iter().map(|run| Series { name: run.name(), points: points(run), dots: false }).collect()
    };
    [
        (
            "Throughput over latency",
            Plot { x: "median ms per token after the first", y: "output tokens/s", series: throughput(runs) },
        ),
        (
            "Time to first token",
            Plot { x: "ms", y: "% of requests at or below", series: each(&|run| shares(&run.metrics.ttft)) },
        ),
        (
            "Between messages with tokens",
            Plot { x: "ms", y: "% of messages at or below", series: each(&|run| shares(&run.metrics.itl)) },
        ),
        ("Tokens over time", Plot { x: "s", y: "output tokens/s", series: each(&tokens) }),
        ("Requests over time", Plot { x: "s", y: "requests under way", series: each(&running) }),
    ]
}

/// A curve for each dataset, a point for each load.
fn throughput(runs: &[Run]) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for run in runs {
        let point = Point { x: run.metrics.tpot.median(), y: run.metrics.output_throughput(), label: run.name() };
        match series.iter_mut().find(|series| series.name == run.dataset) {
            Some(series) => series.points.push(point),
            None => series.push(Series { name: run.dataset.clone(), points: vec![point], dots: true }),
        }
    }
    series
}

/// How many percent of the values are at or below each.
fn shares(of: &Distribution) -> Vec<Point> {
    let values = of.values();
    let stride = values.len().div_ceil(POINTS_MAX).max(1);
    let share = |index: usize| (index + 1) as f64 * 100.0 / values.len() as f64;
    // The largest one must be among them.
    let indices = (0..values.len()).rev().step_by(stride).collect::<Vec<_>>().into_iter().rev();
    indices.map(|index| Point { x: values[index], y: share(index), label: String::new() }).collect()
}

fn tokens(run: &Run) -> Vec<Point> {
    let seconds = tokens_by_second(&run.ran);
    stairs((0..).map(f64::from).zip(seconds).chain([(run.ran.duration, 0.0)]))
}

fn running(run: &Run) -> Vec<Point> {
    let changes = concurrency(&run.ran);
    let stride = changes.len().div_ceil(POINTS_MAX).max(1);
    stairs(changes.into_iter().map(|(time, running)| (time, running as f64)).step_by(stride))
}

/// From each value straight on to the time of the next.
fn stairs(changes: impl Iterator<Item = (f64, f64)>) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for (x, value) in changes {
        let before = points.last().map_or(0.0, |last| last.y);
        points.extend([before, value].map(|y| Point { x, y, label: String::new() }));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run;

    #[test]
    fn a_report_needs_nothing_else() {
        let page = html(&[run(), run()]);
        assert_eq!(page.matches("<svg").count(), 5);
        assert_eq!(page.matches("</svg>").count(), 5);
        for outside in ["http://", "https://", "src=", "href=", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<tr>").count(), 3);
    }

    #[test]
    fn curves_go_up_to_all() {
        let points = shares(&Distribution::of((0..1000).map(f64::from).collect()));
        assert!(points.len() <= POINTS_MAX, "{}", points.len());
        assert_eq!(points.last().map(|point| (point.x, point.y)), Some((999.0, 100.0)));
        let points: Vec<_> = running(&run()).into_iter().map(|point| (point.x, point.y)).collect();
        let expected =
            [(0.0, 0.0), (0.0, 1.0), (0.25, 1.0), (0.25, 2.0), (1.0, 2.0), (1.0, 1.0), (1.5, 1.0), (1.5, 0.0)];
        assert_eq!(points, expected);
    }
}
