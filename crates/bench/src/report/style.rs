//! How runs are told apart in plots.

/// Told apart also by those who see few colours, and with a contrast of at least 3 : 1 on white.
const COLOURS: [&str; 8] = ["#0060a8", "#d55e00", "#008a63", "#b5358f", "#8f8f00", "#2f9ac0", "#7a4a3a", "#111111"];

/// Lengths of dashes and gaps in pixels, and whether a mark is filled; the next of these when the colours are used up.
const DASHES: [(&str, bool); 3] = [("none", true), ("7 3", false), ("2 3", false)];

/// A line, and the mark of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) colour: &'static str,
    /// For `stroke-dasharray`.
    pub(super) dashes: &'static str,
    /// Of a mark.
    pub(super) fill: &'static str,
}

/// The style of the run with this index. The first 24 differ.
pub(super) fn style(index: usize) -> Style {
    let colour = COLOURS[index % COLOURS.len()];
    let (dashes, filled) = DASHES[index / COLOURS.len() % DASHES.len()];
    Style { colour, dashes, fill: if filled { colour } else { "#fff" } }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red, green and blue, from 0 to 1.
    fn channels(colour: &str) -> [f64; 3] {
        [1, 3, 5].map(|at| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).expect("hexadecimal")) / 255.0)
    }

    /// The contrast on white as the Web Content Accessibility Guidelines define it.
    fn contrast(colour: &str) -> f64 {
        let linear = |c: f64| if c <= 0.03928 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
        let [red, green, blue] = channels(colour).map(linear);
        1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    }

    #[test]
    fn styles_can_be_seen_and_told_apart() {
        let styles: Vec<Style> = (0..COLOURS.len() * DASHES.len()).map(style).collect();
        for (index, one) in styles.iter().enumerate() {
            assert!(contrast(one.colour) >= 3.0, "{one:?}: {}", contrast(one.colour));
            assert!(!styles[..index].contains(one), "{one:?}");
        }
        for (index, one) in COLOURS.iter().enumerate() {
            for other in &COLOURS[..index] {
                let distance = channels(one).iter().zip(channels(other)).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
                assert!(distance.sqrt() > 0.25, "{one} and {other}: {distance}");
            }
        }
    }
}
