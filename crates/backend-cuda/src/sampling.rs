//! Samples and scores on the device.

use crate::device::Device;
use crate::kernels::Kernels;
use crate::kernels::sample::{DRAW, MASKED, SCORE, SampleAt, SampleResult, SampleRow, TOP_N_MAX, WATERMARK};
use crate::memory::{Arena, Pinned, Scratch, Upload, View};
use crate::step_inputs::{StepInputs, offsets};
use backend::{BackendError, LogitsOutput, LogitsUse, use_row};
use sampling::Sampler;
use std::rc::Rc;
use step::{Choice, Sample, ScoredToken, TokenScore};

/// What it takes, sized for the most rows that were asked for so far.
pub(crate) struct Sampling {
    device: Rc<Device>,
    inputs: Upload,
    scores: Scratch,
    counts: Scratch,
    results: Scratch,
    pinned: Option<Pinned>,
    /// Of one row, for what the device does not do.
    row: Vec<f32>,
    sampler: Sampler,
}

/// What sampling of several rows needs to know, in the device's layout.
struct Inputs {
    rows: Vec<SampleRow>,
    masks: Vec<u32>,
    mask_words: usize,
    history: Vec<u32>,
    history_stride: usize,
}

impl Sampling {
    pub(crate) fn new(device: &Rc<Device>) -> Result<Self, BackendError> {
        Ok(Self {
            device: Rc::clone(device),
            inputs: Upload::new(device, "what to sample")?,
            scores: Scratch::new("scores"),
            counts: Scratch::zeros("counts of tokens"),
            results: Scratch::new("samples"),
            pinned: None,
            row: Vec::new(),
            sampler: Sampler::new(),
        })
    }

    /// Makes room for any `rows` rows at a time.
    pub(crate) fn reserve(
        &mut self,
        arena: &Arena,
        rows: usize,
        vocab: usize,
        positions: usize,
    ) -> Result<(), BackendError> {
        let history = rows * (positions + 1) * size_of::<u32>();
        let masks = rows * vocab.div_ceil(32) * size_of::<u32>();
        let lengths = [size_of::<StepInputs>(), rows * size_of::<SampleRow>(), masks, history];
        self.inputs.reserve(arena, offsets(lengths).1)?;
        self.scores.at_least(arena, rows * vocab * size_of::<f32>())?;
        self.counts.at_least(arena, rows * vocab * size_of::<u32>())?;
        let results = rows * size_of::<SampleResult>();
        self.results.at_least(arena, results)?;
        if self.pinned.as_ref().is_none_or(|pinned| pinned.bytes().len() < results) {
            self.pinned = Some(Pinned::new(&self.device, results)?);
        }
        Ok(())
    }

    /// [`backend::Backend::use_logits`] of whole rows.
    pub(crate) fn run(
        &mut self,
        arena: &Arena,
        kernels: &Kernels,
        logits: &View<f32>,
        uses: &[LogitsUse<'_>],
    ) -> Result<Vec<LogitsOutput>, BackendError> {
        if uses.is_empty() {
            return Ok(Vec::new());
        }
        let inputs = Inputs::new(uses, logits.columns);
        let history_words = inputs.history_stride;
        self.reserve(arena, uses.len(), logits.columns, history_words)?;
        let at = self.send(arena, &inputs)?;
        kernels.sample.launch(&self.device, &at, logits, uses.len())?;
        let pinned = self.pinned.as_mut().expect("room was made");
        let results = &mut pinned.bytes_mut()[..size_of::<SampleResult>() * uses.len()];
        // SAFETY: the device's results are as many.
        unsafe { self.device.download_pinned("sampling", results, at.results) }?;
        // Pinned memory is aligned to pages.
        let results: Vec<SampleResult> = bytemuck::cast_slice::<u8, SampleResult>(results).to_vec();
        let rows = uses.iter().zip(results).enumerate();
        rows.map(|(row, (wanted, result))| self.output(logits, row, wanted, &result)).collect()
    }

    fn send(&mut self, arena: &Arena, inputs: &Inputs) -> Result<SampleAt, BackendError> {
        let step = StepInputs { samples: inputs.rows.len() as u32, ..StepInputs::default() };
        let parts: [&[u8]; 4] = [
            bytemuck::bytes_of(&step),
            bytemuck::cast_slice(&inputs.rows),
            bytemuck::cast_slice(&inputs.masks),
            bytemuck::cast_slice(&inputs.history),
        ];
        let (offsets, bytes) = offsets(parts.map(<[u8]>::len));
        let at = self.inputs.send(arena, bytes, |to| {
            offsets.iter().zip(parts).for_each(|(&offset, part)| to[offset..][..part.len()].copy_from_slice(part));
        })?;
        let [step, rows, masks, history] = offsets.map(|offset| at + offset as u64);
        Ok(SampleAt {
            step,
            rows,
            masks,
            mask_words: inputs.mask_words,
            history,
            history_stride: inputs.history_stride,
            scores: self.scores.at_least(arena, 0)?.at(),
            counts: self.counts.at_least(arena, 0)?.at(),
            results: self.results.at_least(arena, 0)?.at(),
        })
    }

    fn output(
        &mut self,
        logits: &View<f32>,
        row: usize,
        wanted: &LogitsUse<'_>,
        result: &SampleResult,
    ) -> Result<LogitsOutput, BackendError> {
        let LogitsUse::Sample { row: sample_row, return_logits, .. } = wanted else {
            return Ok(LogitsOutput::Score(result.token.model_logprob));
        };
        let many = sample_row.top_n > TOP_N_MAX;
        if many || *return_logits {
            self.row.resize(logits.columns, 0.0);
            let bytes = bytemuck::cast_slice_mut(&mut self.row);
            // SAFETY: the row is one of the logits, as long as `bytes`.
            unsafe { self.device.download("reading logits", bytes, logits.row(row)) }?;
        }
        if many {
            // The device reports so many; a request for more is answered here, from the same logits to the same choice.
            return Ok(use_row(&mut self.sampler, &self.row, wanted));
        }
        let tops = result.tops.iter().take(result.top as usize);
        Ok(LogitsOutput::Sample(Sample {
            token: scored(&result.token),
            top: tops.map(scored).collect(),
            logits: if *return_logits { self.row.clone() } else { Vec::new() },
        }))
    }
}

fn scored(token: &crate::kernels::sample::ScoredToken) -> ScoredToken {
    let score = TokenScore { logprob: token.logprob, model_logprob: token.model_logprob };
    ScoredToken { id: token.id, score }
}

impl Inputs {
    fn new(uses: &[LogitsUse<'_>], vocab: usize) -> Self {
        let mask_words = vocab.div_ceil(32);
        let mut inputs = Self {
            rows: Vec::with_capacity(uses.len()),
            masks: Vec::new(),
            mask_words,
            history: Vec::new(),
            history_stride: uses.iter().map(history).map(<[u32]>::len).max().unwrap_or(0),
        };
        let masked = uses.iter().any(|wanted| mask(wanted).is_some());
        for (index, wanted) in uses.iter().enumerate() {
            inputs.rows.push(row(index, wanted));
            let tokens = history(wanted);
            assert!(tokens.iter().all(|&token| (token as usize) < vocab), "tokens of a row of logits");
            inputs.history.extend(tokens);
            inputs.history.resize((index + 1) * inputs.history_stride, 0);
            if masked {
                let words = mask(wanted).unwrap_or(&[]);
                assert!(words.is_empty() || words.len() >= mask_words, "a mask of {} words", words.len());
                inputs.masks.extend(words.iter().take(mask_words));
                inputs.masks.resize((index + 1) * mask_words, 0);
            }
        }
        inputs
    }
}

fn mask<'a>(wanted: &LogitsUse<'a>) -> Option<&'a [u32]> {
    match wanted {
        LogitsUse::Sample { row, .. } => row.mask,
        LogitsUse::Score { .. } => None,
    }
}

/// The tokens that the device must know: none where nothing counts them.
fn history<'a>(wanted: &LogitsUse<'a>) -> &'a [u32] {
    let LogitsUse::Sample { row, .. } = wanted else { return &[] };
    let settings = row.params.settings();
    let counted = settings.repetition_penalty != 1.0 || settings.frequency_penalty != 0.0;
    if counted || settings.watermark { row.tokens } else { &[] }
}

fn row(index: usize, wanted: &LogitsUse<'_>) -> SampleRow {
    let empty = SampleRow { row: index as u32, slot: index as u32, ..SampleRow::default() };
    let of = match wanted {
        LogitsUse::Score { token } => return SampleRow { flags: SCORE, token: *token, ..empty },
        LogitsUse::Sample { row, .. } => row,
    };
    let settings = of.params.settings();
    let (draw, key) = match settings.choice {
        Choice::Greedy => (0, 0),
        Choice::Draw { seed, index } => (DRAW, seed.wrapping_add(u64::from(index))),
    };
    let flag = |on, flag| if on { flag } else { 0 };
    SampleRow {
        position: of.position,
        flags: draw | flag(of.mask.is_some(), MASKED) | flag(settings.watermark, WATERMARK),
        seed: [key as u32, (key >> 32) as u32],
        top_k: settings.top_k.unwrap_or(0),
        top_n: of.top_n.min(TOP_N_MAX) as u32,
        temperature: settings.temperature,
        top_p: settings.top_p.unwrap_or(1.0),
        typical_p: settings.typical_p.unwrap_or(1.0),
        repetition_penalty: settings.repetition_penalty,
        frequency_penalty: settings.frequency_penalty,
        ..empty
    }
}
