//! How positions enter attention, in numbers: every backend uses these, so that tables differ nowhere.

use half::bf16;

/// Cosine and sine of the angle by which element `i` of a head's first half is rotated at `position`:
/// `position · theta^(−i / half)`, computed in f64.
#[must_use]
pub fn rotation(theta: f64, half: usize, position: usize, i: usize) -> (f32, f32) {
    let angle = position as f64 * theta.powf(-(i as f64) / half as f64);
    (angle.cos() as f32, angle.sin() as f32)
}

/// What ALiBi adds to the scaled score of the key at `position`: `bf16(slope · position) / √head_dim`.
#[must_use]
pub fn alibi_bias(slope: f32, head_dim: usize, position: usize) -> f32 {
    bf16::from_f32(slope * position as f32).to_f32() / (head_dim as f32).sqrt()
}
