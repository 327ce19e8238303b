//! Plots as SVG.

use super::style::Style;
use std::fmt::Write;

/// The plotted area, and what labels need around it, in pixels. Text is at most 16 pixels high: see the style sheet.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 72.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 50.0;
const RIGHT: f64 = 24.0;

/// About how many intervals an axis has.
const INTERVALS: f64 = 5.0;

/// Curves and marks over one pair of axes, both from 0 on.
pub(super) struct Plot<'a> {
    /// What is on the axes.
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) curves: Vec<Curve>,
    pub(super) marks: Vec<Mark>,
}

/// A polyline, with the name that is shown when it is pointed at.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// None: thin and grey.
    pub(super) style: Option<Style>,
}

/// A point, with what is said of it when it is pointed at.
pub(super) struct Mark {
    pub(super) at: (f64, f64),
    pub(super) label: String,
    pub(super) style: Style,
}

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let points =
            || self.curves.iter().flat_map(|curve| &curve.points).chain(self.marks.iter().map(|mark| &mark.at));
        let (x, y) = (Axis::over(points().map(|point| point.0)), Axis::over(points().map(|point| point.1)));
        let place = |&(px, py): &(f64, f64)| (LEFT + x.share(px) * WIDTH, TOP + (1.0 - y.share(py)) * HEIGHT);
        let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
        let mut svg = format!("<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
        self.axes(&x, &y, &mut svg);
        for curve in &self.curves {
            let line: Vec<_> = curve.points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let stroke = curve.style.map_or_else(
                || "class=\"join\"".to_owned(),
                |Style { colour, dashes, .. }| format!("stroke=\"{colour}\" stroke-dasharray=\"{dashes}\""),
            );
            let (line, name) = (line.join(" "), escape(&curve.name));
            let _ = writeln!(svg, "<polyline points=\"{line}\" {stroke}><title>{name}</title></polyline>");
        }
        for Mark { at, label, style } in &self.marks {
            let ((x, y), label) = (place(at), escape(label));
            let _ = writeln!(svg, "{}<title>{label}</title></circle>", circle(x, y, *style));
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, x: &Axis, y: &Axis, svg: &mut String) {
        let (right, bottom) = (LEFT + WIDTH, TOP + HEIGHT);
        for tick in x.ticks() {
            let (at, below, number) = (LEFT + x.share(tick) * WIDTH, bottom + 17.0, number(tick));
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{number}</text>");
        }
        for tick in y.ticks() {
            let (at, beside, number) = (TOP + (1.0 - y.share(tick)) * HEIGHT, LEFT - 6.0, number(tick));
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
            let _ = writeln!(svg, "<text x=\"{beside}\" y=\"{:.1}\" text-anchor=\"end\">{number}</text>", at + 4.0);
        }
        let (middle, low, height) = (LEFT + WIDTH / 2.0, bottom + 40.0, TOP + HEIGHT / 2.0);
        let (x, y) = (escape(self.x), escape(self.y));
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{x}</text>");
        let turned = format!("translate(16 {height}) rotate(-90)");
        let _ = writeln!(svg, "<text transform=\"{turned}\" text-anchor=\"middle\">{y}</text>");
    }
}

/// A run's line and mark, for a legend.
pub(super) fn swatch(style: Style) -> String {
    let Style { colour, dashes, .. } = style;
    let line = format!("<path d=\"M1 7H37\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>");
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 38 14\" aria-hidden=\"true\">{line}{}</circle></svg>",
        circle(19.0, 7.0, style)
    )
}

/// A mark without its end tag.
fn circle(x: f64, y: f64, Style { colour, fill, .. }: Style) -> String {
    format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"2\">")
}

/// An axis from 0 to a round number.
struct Axis {
    step: f64,
    end: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let power = 10f64.powf((most / INTERVALS).log10().floor());
        let round = [1.0, 2.0, 5.0, 10.0].map(|round| round * power);
        let step = round.into_iter().find(|step| step * INTERVALS >= most).unwrap_or(10.0 * power);
        Self { step, end: (most / step).ceil() * step }
    }

    fn share(&self, value: f64) -> f64 {
        value / self.end
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = (self.end / self.step).round() as usize;
        (0..=count).map(|index| index as f64 * self.step)
    }
}

/// Short: without zeros at the end, and with k or M for thousands or millions from 10,000 on.
fn number(value: f64) -> String {
    let (value, unit) = match value {
        1e6.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.6}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Text within HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::style::style;

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, step, end) in
            [(7.3, 2.0, 8.0), (100.0, 20.0, 100.0), (0.0, 0.2, 1.0), (0.011, 0.005, 0.015), (1234.0, 500.0, 1500.0)]
        {
            let axis = Axis::over([most, -1.0].into_iter());
            assert!(
                (axis.step - step).abs() < 1e-9 && (axis.end - end).abs() < 1e-9,
                "{most}: {} {}",
                axis.step,
                axis.end
            );
        }
        for (value, text) in [(0.2, "0.2"), (1500.0, "1500"), (0.0, "0"), (15_000.0, "15k"), (2.5e6, "2.5M")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn points_are_where_they_belong() {
        let curve = Curve { name: "a < b".to_owned(), points: vec![(0.0, 0.0), (10.0, 1.0)], style: Some(style(9)) };
        let mark = Mark { at: (5.0, 1.0), label: "c".to_owned(), style: style(0) };
        let svg = Plot { x: "x", y: "y", curves: vec![curve], marks: vec![mark] }.svg();
        assert!(svg.contains("points=\"72.0,242.0 472.0,12.0\"") && svg.contains("<title>a &lt; b</title>"), "{svg}");
        assert!(svg.contains("stroke-dasharray=\"7 3\"") && svg.contains("cx=\"272.0\" cy=\"12.0\""), "{svg}");
    }
}
