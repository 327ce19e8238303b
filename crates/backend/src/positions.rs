//! How positions enter attention, in numbers: every backend uses these, so that tables differ nowhere.

use half::bf16;

/// Cosine and sine of the angle by which an element of a head's first half is rotated at `position`: `position ·
/// inverse_frequency`, computed in f64. Both are multiplied by `factor`.
#[must_use]
pub fn rotation(inverse_frequency: f64, factor: f64, position: usize) -> (f32, f32) {
    let angle = position as f64 * inverse_frequency;
    ((angle.cos() * factor) as f32, (angle.sin() * factor) as f32)
}

/// What ALiBi adds to the scaled score of the key at `position`: `bf16(slope · position) / √head_dim`.
#[must_use]
pub fn alibi_bias(slope: f32, head_dim: usize, position: usize) -> f32 {
    bf16::from_f32(slope * position as f32).to_f32() / (head_dim as f32).sqrt()
}
