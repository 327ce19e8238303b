//! Samples and scores on the device.

use crate::device::Device;
use crate::in_flight::IN_FLIGHT_MAX;
use crate::kernels::Kernels;
use crate::kernels::sample::{SampleAt, SampleResult, SampleRow, ScoredToken, TOP_N_MAX};
use crate::memory::{Arena, Pinned, Scratch, Staging, View};
use crate::sample_rows::{EXTRAS_BYTES_MAX, row, scratch_tokens};
use crate::step_inputs::{StepInputs, offsets};
use crate::token_buffer::TokenBuffer;
use backend::{BackendError, SampleOutput, SampleRequest, sample_or_score_row};
use sampling::Sampler;
use std::ops::Range;
use std::rc::Rc;
use step::{Sample, TokenScore};

/// What it takes, sized for the most rows that were asked for so far.
pub(crate) struct Sampling {
    device: Rc<Device>,
    /// Of rows that come without a step's inputs.
    inputs: Scratch,
    masks: Scratch,
    extras: Scratch,
    scores: Scratch,
    counts: Scratch,
    results: Scratch,
    /// Results of the steps on their way: as many for each of them.
    pinned: Option<Pinned>,
    results_max: usize,
    /// Where the next results of a step go, by its number.
    next: (Option<u64>, usize),
    /// Of one row, for what the device does not do.
    row: Vec<f32>,
    sampler: Sampler,
}

/// How much there must be room for.
#[derive(Clone, Copy)]
pub(crate) struct SampleCapacity {
    /// Rows of a launch.
    pub(crate) launch: usize,
    /// Rows whose results, masks and extras are there at a time.
    pub(crate) rows: usize,
    /// Results of a step.
    pub(crate) step: usize,
    pub(crate) vocab: usize,
}

impl SampleCapacity {
    /// Bytes of the inputs, masks, extras, scores, counts and results.
    pub(crate) fn bytes(&self) -> [usize; 6] {
        let Self { launch, rows, vocab, .. } = *self;
        [
            input_offsets(launch).1,
            rows * mask_words(vocab) * size_of::<u32>(),
            rows * EXTRAS_BYTES_MAX,
            launch * vocab * size_of::<f32>(),
            launch * vocab * size_of::<u32>(),
            rows * size_of::<SampleResult>(),
        ]
    }
}

/// What sampling works with beside its own.
pub(crate) struct Tools<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) staging: &'a mut Staging,
    pub(crate) token_buffer: &'a mut TokenBuffer,
    pub(crate) kernels: &'a Kernels,
}

/// Results on their way.
pub(crate) struct PendingSamples {
    /// The step whose end they come before; none where they are asked for by themselves.
    pub(crate) step: Option<u64>,
    results: Range<usize>,
    rows: Vec<Row>,
}

/// What else a result consists of.
enum Row {
    Score,
    /// With its logits, if they are wanted.
    Sample(Vec<f32>),
    /// It was made on the host.
    Known(SampleOutput),
}

impl Sampling {
    pub(crate) fn new(device: &Rc<Device>) -> Self {
        Self {
            device: Rc::clone(device),
            inputs: Scratch::new("what to sample"),
            masks: Scratch::new("masks"),
            extras: Scratch::new("extras of samples"),
            scores: Scratch::new("scores"),
            counts: Scratch::zeros("counts of tokens"),
            results: Scratch::new("samples"),
            pinned: None,
            results_max: 0,
            next: (None, 0),
            row: Vec::new(),
            sampler: Sampler::new(),
        }
    }

    pub(crate) fn reserve(&mut self, arena: &Arena, capacity: &SampleCapacity) -> Result<(), BackendError> {
        let Self { inputs, masks, extras, scores, counts, results, .. } = self;
        for (scratch, bytes) in [inputs, masks, extras, scores, counts, results].into_iter().zip(capacity.bytes()) {
            scratch.at_least(arena, bytes)?;
        }
        let step = capacity.step;
        if self.results_max < step {
            self.results_max = step;
            self.pinned = Some(Pinned::new(&self.device, IN_FLIGHT_MAX * step * size_of::<SampleResult>())?);
        }
        Ok(())
    }

    /// As it was before the first step.
    pub(crate) fn renew(&mut self) -> Result<(), BackendError> {
        self.next = (None, 0);
        self.counts.renew(&self.device)
    }

    /// [`backend::Backend::sample_or_score`] of whole rows, which are in a step of this number.
    pub(crate) fn run(
        &mut self,
        tools: &mut Tools<'_>,
        logits: &View<f32>,
        requests: &[SampleRequest<'_>],
        step: Option<u64>,
    ) -> Result<PendingSamples, BackendError> {
        let (rows, vocab) = (requests.len(), logits.columns);
        self.reserve(tools.arena, &SampleCapacity { launch: rows, rows, step: rows, vocab })?;
        let samples = self.rows(tools, requests, vocab)?;
        let inputs = StepInputs { samples: rows as u32, ..StepInputs::default() };
        let parts: [&[u8]; 2] = [bytemuck::bytes_of(&inputs), bytemuck::cast_slice(&samples)];
        let (offsets, bytes) = input_offsets(rows);
        let at = self.inputs.at();
        let fill = |to: &mut [u8]| {
            offsets.iter().zip(parts).for_each(|(&offset, part)| to[offset..][..part.len()].copy_from_slice(part));
        };
        // SAFETY: room was made above, and lives as long as the backend.
        unsafe { tools.staging.send(at, bytes, fill) }?;
        let [inputs, samples] = offsets.map(|offset| at + offset as u64);
        let at = self.at(inputs, samples, 0, tools.token_buffer, vocab);
        tools.kernels.sample.launch(&self.device, &at, logits, rows)?;
        self.keep(tools.token_buffer, logits, requests, step)
    }

    /// The requests, in the device's layout. Masks, extras, and the tokens of sequences without a slot, are sent.
    pub(crate) fn rows(
        &mut self,
        tools: &mut Tools<'_>,
        requests: &[SampleRequest<'_>],
        vocab: usize,
    ) -> Result<Vec<SampleRow>, BackendError> {
        let scratch_slots = requests.iter().filter_map(scratch_tokens).map(<[u32]>::len).max();
        if let Some(longest) = scratch_slots {
            tools.token_buffer.reserve(tools.arena, 0, longest, requests.len())?;
        }
        let (mut rows, mut extras) = (Vec::with_capacity(requests.len()), Vec::new());
        for (index, request) in requests.iter().enumerate() {
            let mut slot = tools.token_buffer.scratch_slot(index);
            if let Some(tokens) = scratch_tokens(request) {
                assert!(tokens.iter().all(|&token| (token as usize) < vocab), "tokens of a row of logits");
                tools.token_buffer.set(tools.staging, slot, 0, tokens)?;
            }
            if let SampleRequest::Sample { row, slot: own, .. } = request {
                slot = own.unwrap_or(slot);
                if let Some(mask) = row.mask {
                    self.send_mask(tools.staging, index, mask, vocab)?;
                }
            }
            rows.push(row(slot, request, &mut extras, vocab));
        }
        self.send_extras(tools.staging, &extras)?;
        Ok(rows)
    }

    fn send_extras(&self, staging: &mut Staging, words: &[u32]) -> Result<(), BackendError> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        if bytes.is_empty() {
            return Ok(());
        }
        assert!(bytes.len() <= self.extras.bytes(), "room for {} bytes of extras", bytes.len());
        // SAFETY: asserted above.
        unsafe { staging.send(self.extras.at(), bytes.len(), |to| to.copy_from_slice(bytes)) }
    }

    fn send_mask(&self, staging: &mut Staging, index: usize, mask: &[u32], vocab: usize) -> Result<(), BackendError> {
        let words = mask_words(vocab);
        assert!(mask.len() >= words, "a mask of {} words", mask.len());
        let bytes: &[u8] = bytemuck::cast_slice(&mask[..words]);
        let at = index * bytes.len();
        assert!(at + bytes.len() <= self.masks.bytes(), "room for mask {index}");
        // SAFETY: asserted above.
        unsafe { staging.send(self.masks.at() + at as u64, bytes.len(), |to| to.copy_from_slice(bytes)) }
    }

    /// Where a launch finds what it needs, for rows from `first` on. `inputs` are `StepInputs`, `samples` are `SampleRow`s.
    pub(crate) fn at(
        &self,
        inputs: u64,
        samples: u64,
        first: usize,
        token_buffer: &TokenBuffer,
        vocab: usize,
    ) -> SampleAt {
        let words = mask_words(vocab);
        SampleAt {
            step: inputs,
            rows: samples + (first * size_of::<SampleRow>()) as u64,
            masks: self.masks.at() + (first * words * size_of::<u32>()) as u64,
            mask_words: words,
            extras: self.extras.at(),
            history: token_buffer.at(),
            history_stride: token_buffer.stride(),
            scores: self.scores.at(),
            counts: self.counts.at(),
            results: self.results.at() + (first * size_of::<SampleResult>()) as u64,
        }
    }

    /// Results come to the host behind what was launched, and stay there until they are taken.
    pub(crate) fn keep(
        &mut self,
        token_buffer: &TokenBuffer,
        logits: &View<f32>,
        requests: &[SampleRequest<'_>],
        step: Option<u64>,
    ) -> Result<PendingSamples, BackendError> {
        let used = if step.is_some() && self.next.0 == step { self.next.1 } else { 0 };
        assert!(used + requests.len() <= self.results_max, "room for the results of a step");
        self.next = (step, used + requests.len());
        let first = step.map_or(0, |step| step as usize % IN_FLIGHT_MAX) * self.results_max + used;
        let results = first..first + requests.len();
        let pinned = self.pinned.as_ref().expect("room was made");
        let bytes = bytes_of(&results);
        // SAFETY: the results are on the device, as many. Nobody reads these until the step has ended, and the next step
        // to which they belong is begun after that.
        unsafe { self.device.download_later("sampling", pinned.at(&bytes), bytes.len(), self.results.at()) }?;
        let rows =
            requests.iter().enumerate().map(|(index, request)| self.on_host(token_buffer, logits, index, request));
        Ok(PendingSamples { step, results, rows: rows.collect::<Result<_, _>>()? })
    }

    /// What of a row is made on the host. Where that is much, it is waited for.
    fn on_host(
        &mut self,
        token_buffer: &TokenBuffer,
        logits: &View<f32>,
        index: usize,
        request: &SampleRequest<'_>,
    ) -> Result<Row, BackendError> {
        let SampleRequest::Sample { row, slot, return_logits } = request else { return Ok(Row::Score) };
        // The device reports so many; a request for more is answered here, from the same logits to the same choice.
        let many = row.top_n > TOP_N_MAX;
        if !many && !return_logits {
            return Ok(Row::Sample(Vec::new()));
        }
        self.row.resize(logits.columns, 0.0);
        // SAFETY: the row is one of the logits, as long as the slice.
        unsafe { self.device.download("reading logits", bytemuck::cast_slice_mut(&mut self.row), logits.row(index)) }?;
        if !many {
            return Ok(Row::Sample(self.row.clone()));
        }
        let mut tokens = row.tokens.to_vec();
        if let Some(slot) = *slot {
            tokens.resize(row.position as usize, 0);
            let (from, to) = (token_buffer.token(slot, 0), bytemuck::cast_slice_mut(&mut tokens));
            // SAFETY: a slot has room for all positions.
            unsafe { self.device.download("reading tokens", to, from) }?;
        }
        let row = ::sampling::SampleRow { tokens: &tokens, ..*row };
        let request = SampleRequest::Sample { row, slot: *slot, return_logits: *return_logits };
        Ok(Row::Known(sample_or_score_row(&mut self.sampler, &self.row, &request)))
    }

    /// The outputs, once the device has left the results.
    pub(crate) fn take(&self, pending: PendingSamples) -> Vec<SampleOutput> {
        let pinned = self.pinned.as_ref().expect("room was made");
        // SAFETY: the copy to these has ended with their step; the device may be writing those of the other step.
        let bytes = unsafe { pinned.range(bytes_of(&pending.results)) };
        // Pinned memory is aligned to pages.
        let results: &[SampleResult] = bytemuck::cast_slice(bytes);
        pending.rows.into_iter().zip(results).map(|(row, result)| output(row, result)).collect()
    }
}

/// Where results are in pinned memory.
fn bytes_of(results: &Range<usize>) -> Range<usize> {
    results.start * size_of::<SampleResult>()..results.end * size_of::<SampleResult>()
}

fn output(row: Row, result: &SampleResult) -> SampleOutput {
    match row {
        Row::Score => SampleOutput::Score(result.token.model_logprob),
        Row::Known(output) => output,
        Row::Sample(logits) => SampleOutput::Sample(Sample {
            token: scored(&result.token),
            top: result.tops.iter().take(result.top as usize).map(scored).collect(),
            logits,
        }),
    }
}

fn scored(token: &ScoredToken) -> step::ScoredToken {
    let score = TokenScore { logprob: token.logprob, model_logprob: token.model_logprob };
    step::ScoredToken { id: token.id, score }
}

/// `StepInputs`, then `SampleRow`s.
fn input_offsets(rows: usize) -> ([usize; 2], usize) {
    offsets([size_of::<StepInputs>(), rows * size_of::<SampleRow>()])
}

fn mask_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}
