//! Rotary position embeddings: `rope_parameters` of transformers 5, and the older `rope_theta` and `rope_scaling`.

use crate::ConfigError;
use crate::fields::Fields;
use serde_json::Value;
use std::f64::consts::TAU;

/// By which angles queries and keys are rotated: element `i` of a head's first half by `position · frequency(i)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies were changed to reach longer texts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies were changed to reach longer texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Position interpolation (Chen et al. 2023): all frequencies divided by `factor`.
    Linear {
        /// How many times longer texts may be.
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): high frequencies stay, low ones are divided by `factor`, with a linear ramp between.
    Yarn {
        /// How many times longer texts may be.
        factor: f64,
        /// By which cosine and sine are multiplied.
        attention_factor: f64,
        /// Elements of half a head between which the ramp lies.
        ramp: (f64, f64),
    },
}

impl Rope {
    /// Without any scaling.
    #[must_use]
    pub fn plain(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::None }
    }

    /// Radians per position for each element of half a head.
    #[must_use]
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let half = head_dim / 2;
        let scaled = |i: usize| {
            let plain = self.theta.powf(-(i as f64) / half as f64);
            match self.scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear { factor } => plain / factor,
                RopeScaling::Yarn { factor, ramp: (low, high), .. } => {
                    let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    plain / factor * interpolated + plain * (1.0 - interpolated)
                }
            }
        };
        (0..half).map(scaled).collect()
    }

    /// By which cosine and sine are multiplied; 1 but for YaRN.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            RopeScaling::None | RopeScaling::Linear { .. } => 1.0,
        }
    }

    /// As transformers 5 takes it from a config: a `rope_scaling` that is there replaces `rope_parameters`, and a `rope_theta`
    /// in either goes before the one beside it.
    pub(crate) fn read(fields: &Fields, head_dim: usize, max_positions: usize) -> Result<Self, ConfigError> {
        let parameters =
            fields.object("rope_scaling")?.map_or_else(|| fields.object("rope_parameters"), |it| Ok(Some(it)))?;
        let outer_theta = fields.positive_float("rope_theta")?.unwrap_or(10_000.0);
        fields.only("partial_rotary_factor", &Value::from(1.0))?;
        let Some(parameters) = parameters else { return Ok(Self::plain(outer_theta)) };
        parameters.only("partial_rotary_factor", &Value::from(1.0))?;
        let theta = parameters.positive_float("rope_theta")?.unwrap_or(outer_theta);
        let named = if parameters.text("rope_type")?.is_some() { "rope_type" } else { "type" };
        let scaling = match parameters.text(named)?.unwrap_or("default") {
            // Within the model's positions, beyond which no request may go, dynamic scaling changes nothing.
            "default" | "dynamic" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: parameters.required_positive_float("factor")? },
            "yarn" => yarn(fields, &parameters, theta, head_dim, max_positions)?,
            other => {
                return Err(parameters.unsupported(named, "default, dynamic, linear or yarn", &Value::from(other)));
            }
        };
        Ok(Self { theta, scaling })
    }
}

/// As `_compute_yarn_parameters` of transformers 5.
fn yarn(
    fields: &Fields,
    parameters: &Fields,
    theta: f64,
    head_dim: usize,
    max_positions: usize,
) -> Result<RopeScaling, ConfigError> {
    const ORIGINAL: &[&str] = &["original_max_position_embeddings"];
    let original = fields.size(ORIGINAL)?.map_or_else(|| parameters.size(ORIGINAL), |size| Ok(Some(size)))?;
    let original = original.unwrap_or(max_positions) as f64;
    let factor = parameters.required_positive_float("factor")?;
    let mscales = (parameters.positive_float("mscale")?, parameters.positive_float("mscale_all_dim")?);
    let mscale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let attention_factor = match (parameters.positive_float("attention_factor")?, mscales) {
        (Some(factor), _) => factor,
        (None, (Some(numerator), Some(denominator))) => mscale(numerator) / mscale(denominator),
        (None, _) => mscale(1.0),
    };
    // The element whose wavelength fits so often into the original positions.
    let dim = head_dim as f64;
    let element = |rotations: f64| dim * (original / (rotations * TAU)).ln() / (2.0 * theta.ln());
    let low = element(parameters.positive_float("beta_fast")?.unwrap_or(32.0));
    let high = element(parameters.positive_float("beta_slow")?.unwrap_or(1.0));
    let truncate = parameters.flag("truncate")?.unwrap_or(true);
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dim - 1.0));
    let high = if low == high { high + 0.001 } else { high };
    Ok(RopeScaling::Yarn { factor, attention_factor, ramp: (low, high) })
}
