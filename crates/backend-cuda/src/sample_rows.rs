//! What is wanted of rows of logits, in the device's layout.

use crate::kernels::sample::{
    APPEND, DRAW, EXTRAS, MASKED, SCORE, SampleExtras, SampleRow, TOP_N_MAX, TokenBias, WATERMARK,
};
use backend::SampleRequest;
use sampling::TEMPERATURE_MIN;
use step::{Choice, LOGIT_BIAS_MAX, SamplingSettings};

/// Bytes of the extras that a row can have.
pub(crate) const EXTRAS_BYTES_MAX: usize = size_of::<SampleExtras>() + LOGIT_BIAS_MAX * size_of::<TokenBias>();

/// Whether something looks at the tokens before.
fn looks_back(settings: &SamplingSettings) -> bool {
    let penalties = [settings.relative_frequency_penalty, settings.presence_penalty, settings.frequency_penalty];
    settings.watermark || settings.repetition_penalty != 1.0 || penalties != [0.0; 3]
}

/// The tokens of which the device must be told: of a sequence without a slot, where something looks at them.
pub(crate) fn scratch_tokens<'a>(request: &SampleRequest<'a>) -> Option<&'a [u32]> {
    let SampleRequest::Sample { row, slot: None, .. } = request else { return None };
    looks_back(row.params.settings()).then_some(row.tokens)
}

/// One row, whose tokens are in `slot`. Its extras, if it has some, go behind those in `extras`; ids in them are below `vocab`.
pub(crate) fn row(slot: usize, request: &SampleRequest<'_>, extras: &mut Vec<u32>, vocab: usize) -> SampleRow {
    let empty = SampleRow { slot: slot as u32, ..SampleRow::default() };
    let (of, keeps) = match request {
        SampleRequest::Score { token } => return SampleRow { flags: SCORE, token: *token, ..empty },
        SampleRequest::Sample { row, slot, .. } => (row, slot.is_some()),
    };
    let settings = of.params.settings();
    let (draw, key) = match settings.choice {
        Choice::Greedy => (0, 0),
        Choice::Draw { seed, index } => (DRAW, seed.wrapping_add(u64::from(index))),
    };
    let flag = |on, flag| if on { flag } else { 0 };
    let first = extras.len();
    push_extras(extras, settings, of.prompt_len, vocab);
    SampleRow {
        position: of.position,
        flags: draw
            | flag(of.mask.is_some(), MASKED)
            | flag(settings.watermark, WATERMARK)
            | flag(extras.len() > first, EXTRAS)
            | flag(keeps, APPEND),
        seed: [key as u32, (key >> 32) as u32],
        top_k: settings.top_k.unwrap_or(0),
        top_n: of.top_n.min(TOP_N_MAX) as u32,
        temperature: settings.temperature.max(TEMPERATURE_MIN),
        top_p: settings.top_p.unwrap_or(1.0),
        typical_p: settings.typical_p.unwrap_or(1.0),
        repetition_penalty: settings.repetition_penalty,
        relative_frequency_penalty: settings.relative_frequency_penalty,
        extras: first as u32,
        ..empty
    }
}

/// Appends what few rows want, where this one wants some of it.
fn push_extras(to: &mut Vec<u32>, settings: &SamplingSettings, prompt: u32, vocab: usize) {
    let SamplingSettings { min_p, presence_penalty, frequency_penalty, ref logit_bias, .. } = *settings;
    if [min_p, presence_penalty, frequency_penalty] == [0.0; 3] && logit_bias.is_none() {
        return;
    }
    let known = logit_bias.as_deref().unwrap_or_default().iter().filter(|by| (by.id as usize) < vocab);
    let biases: Vec<TokenBias> = known.map(|by| TokenBias { id: by.id, bias: by.bias }).collect();
    let extras = SampleExtras {
        min_p,
        presence_penalty,
        frequency_penalty,
        prompt,
        biases: biases.len() as u32,
        ..SampleExtras::default()
    };
    to.extend_from_slice(bytemuck::cast_slice(std::slice::from_ref(&extras)));
    to.extend_from_slice(bytemuck::cast_slice(&biases));
}
