//! Plots as SVG.

use std::fmt::Write;

/// Inner size, and room for labels around it, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
const RIGHT: f64 = 16.0;

/// Ticks of an axis, about.
const TICKS: f64 = 5.0;

/// Colours that also those tell apart who see few.
pub(super) const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#666666"];

/// Curves over one pair of axes, both from 0 on.
pub(super) struct Plot<'a> {
    /// What is on the axes.
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) series: Vec<Series>,
}

/// One curve.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
    /// Marks at the points.
    pub(super) dots: bool,
}

/// A point, with what is said of it when it is pointed at.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) label: String,
}

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (x, y) = (Axis::over(points().map(|point| point.x)), Axis::over(points().map(|point| point.y)));
        let place = |point: &Point| (LEFT + x.share(point.x) * WIDTH, TOP + (1.0 - y.share(point.y)) * HEIGHT);
        let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
        let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
        self.axes(&x, &y, &mut svg);
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let line: Vec<_> = series.points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let name = escape(&series.name);
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"><title>{name}</title></polyline>",
                line.join(" ")
            );
            for point in series.points.iter().filter(|_| series.dots) {
                let ((x, y), label) = (place(point), escape(&point.label));
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{label}</title></circle>"
                );
            }
        }
        for series in self.series.iter().filter(|series| series.dots) {
            let Some((x, y)) = series.points.last().map(place) else { continue };
            // Beside the last point, on the side where there is room.
            let (x, anchor) = if x > LEFT + WIDTH / 2.0 { (x - 8.0, "end") } else { (x + 8.0, "start") };
            let name = escape(&series.name);
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>", y + 4.0);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, x: &Axis, y: &Axis, svg: &mut String) {
        let (right, bottom) = (LEFT + WIDTH, TOP + HEIGHT);
        for tick in x.ticks() {
            let at = LEFT + x.share(tick) * WIDTH;
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                number(tick)
            );
        }
        for tick in y.ticks() {
            let at = TOP + (1.0 - y.share(tick)) * HEIGHT;
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                number(tick)
            );
        }
        let (middle, low, height) = (LEFT + WIDTH / 2.0, bottom + 36.0, TOP + HEIGHT / 2.0);
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>", escape(self.x));
        let _ = writeln!(
            svg,
            "<text transform=\"translate(14 {height}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(self.y)
        );
    }
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
        let power = 10f64.powf((most / TICKS).log10().floor());
        let round = [1.0, 2.0, 5.0, 10.0].map(|round| round * power);
        let step = round.into_iter().find(|step| step * TICKS >= most).unwrap_or(10.0 * power);
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

/// Without digits that say nothing.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text within HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((number(0.2), number(1500.0), number(0.0)), ("0.2".to_owned(), "1500".to_owned(), "0".to_owned()));
    }

    #[test]
    fn points_are_where_they_belong() {
        let point = |x, y| Point { x, y, label: "a < b".to_owned() };
        let series = Series { name: "s".to_owned(), points: vec![point(0.0, 0.0), point(10.0, 1.0)], dots: true };
        let svg = Plot { x: "x", y: "y", series: vec![series] }.svg();
        assert!(svg.contains("points=\"64.0,292.0 704.0,12.0\"") && svg.contains("<title>a &lt; b</title>"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
