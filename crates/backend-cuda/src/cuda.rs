//! The backend.

use crate::cache::{self, CudaKvCache};
use crate::collective::AllReducePath;
use crate::cublaslt::{self, CublasLt};
use crate::cuda_step::CudaStep;
use crate::device::Device;
use crate::discover::discover;
use crate::footprint::CudaFootprint;
use crate::graphs::{self, Graphs};
use crate::in_flight::{IN_FLIGHT_MAX, InFlightSteps, State};
use crate::kernels::Kernels;
use crate::kernels::attention::{self, Attention};
use crate::kernels::norm::Moments;
use crate::kernels::norm_product::NormedPart;
use crate::kernels::product::{self, Output, Plan, ProductScratch, RowCount, Weight, chunks, tiles};
use crate::limits::{self, NORM_PRODUCT_ROWS_MAX, OWN_PRODUCT_ROWS_MAX, STEP_ROWS_MAX};
use crate::memory::{Arena, Buffer, Scratch, Staging, View};
use crate::peers::buffer_bytes;
use crate::sample_rows::EXTRAS_BYTES_MAX;
use crate::sampling::{PendingSamples, SampleCapacity, Sampling};
use crate::step_inputs::{StepAt, StepMemory};
use crate::tensor::{CudaMatrix, CudaTensor, CudaVector, Form, PAD, exactly};
use crate::token_buffer::TokenBuffer;
use crate::weights::WeightUpload;
use backend::{
    AttentionShape, Backend, BackendError, Collective, Footprint, Leaver, Linear, Norm, NormLinear, ReadWeights,
    SampleOutput, StepInput, StepLimits, Tensor,
};
use half::bf16;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use timeouts::{Backoff, StepTimeLimits};

/// How the ranks' sums are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllReduceChoice {
    /// By kernels that read the peers' memory, where every device can access every other; else by NCCL, where it can be
    /// opened; else through the host's memory.
    #[default]
    Auto,
    /// By kernels that read the peers' memory, each rank all of it, whatever the size.
    OneShot,
    /// By kernels that read the peers' memory, each rank a share of it first, whatever the size.
    TwoShot,
    /// By NCCL.
    Nccl,
    /// Through the host's memory.
    Host,
}

/// How a rank uses its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// The device's number.
    pub device: usize,
    /// How the ranks' sums are made.
    pub all_reduce: AllReduceChoice,
    /// One order of every sum, whatever the batch and the chunks of a prompt: no cuBLASLt, and one attention kernel.
    pub deterministic: bool,
    /// Wait for each kernel, so that an error names the one that met it.
    pub check_launches: bool,
    /// Bytes of a piece of memory from which tensors are handed out; 0: each has an allocation of its own.
    pub chunk_bytes: usize,
    /// Record steps in which every sequence has one row, and launch each of them at once.
    pub graphs: bool,
    /// Begin a step while the device works on the one before.
    pub run_ahead: bool,
    /// How long the host waits for the device, and so for the other ranks.
    pub wait_limit: Duration,
    /// What the coordinator allows every step. A rank gives up a little earlier: see [`StepTimeLimits::of_rank`], where the
    /// first step is allowed `wait_limit`.
    pub step_limit: Duration,
}

impl CudaOptions {
    /// The usual way to use a device.
    #[must_use]
    pub fn new(device: usize) -> Self {
        Self {
            device,
            all_reduce: AllReduceChoice::Auto,
            deterministic: false,
            check_launches: false,
            chunk_bytes: CHUNK_BYTES,
            graphs: true,
            run_ahead: true,
            wait_limit: Duration::from_secs(60),
            step_limit: Duration::from_secs(60),
        }
    }
}

/// One rank on a GPU. It must be made on the thread that uses it.
pub struct Cuda {
    pub(crate) options: CudaOptions,
    footprint: CudaFootprint,
    /// Before what they use.
    pub(crate) graphs: Graphs,
    /// Of steps, once the rank is ready.
    pub(crate) limits: Option<StepLimits>,
    pub(crate) in_flight: InFlightSteps,
    pub(crate) device: Rc<Device>,
    pub(crate) arena: Arena,
    pub(crate) kernels: Kernels,
    pub(crate) host: Box<dyn Collective>,
    pub(crate) all_reduce_path: AllReducePath,
    cublaslt: Option<CublasLt>,
    /// While weights are loaded.
    weights: Option<WeightUpload>,
    pub(crate) staging: Staging,
    pub(crate) token_buffer: TokenBuffer,
    pub(crate) step_memory: StepMemory,
    pub(crate) sampling: Sampling,
    /// The numbers 0, 1, 2 …: how many rows are in use, for kernels that read it from the device.
    counts: Buffer,
    identity: Identity,
    partials: Scratch,
    tickets: Scratch,
    attention_partials: Scratch,
    attention_tickets: Scratch,
    /// One product, where a plain operation adds it to another.
    term: Scratch,
    /// Whole rows of logits.
    pub(crate) whole_rows: Scratch,
    tiles_max: usize,
    /// (tiles, width, positions) of the KV cache.
    attention: Option<(usize, usize, usize)>,
}

/// A norm that changes nothing: it rounds f32 to bf16.
struct Identity {
    ones: Option<CudaVector>,
    zeros: Option<CudaVector>,
}

/// Bytes of an allocation that small buffers share.
pub(crate) const CHUNK_BYTES: usize = 64 << 20;
/// Bytes of what is sent to the device at a time, where a step does not ask for more.
const STAGING_BYTES: usize = 64 << 10;
/// Bytes of the numbers of rows.
pub(crate) const COUNTS_BYTES: usize = (STEP_ROWS_MAX + PAD) * size_of::<u32>();
/// Rows of one launch of an own product. No step that is captured has more.
const PRODUCT_ROWS_MAX: usize = 512;

impl Cuda {
    /// Opens the device. `host` connects the ranks' processes, for what they tell each other beside their sums.
    ///
    /// # Errors
    ///
    /// [`BackendError::Device`]: there is no such device, or it will not do; the driver's errors;
    /// [`BackendError::Collective`].
    pub fn new(options: &CudaOptions, host: Box<dyn Collective>) -> Result<Self, BackendError> {
        let rank = host.rank();
        let refuse = |message: String| BackendError::Device {
            operation: "finding the device",
            message: format!("rank {rank}: {message}"),
        };
        let gpus = discover().map_err(|error| refuse(error.to_string()))?;
        gpus.for_ranks(options.device + 1).map_err(|error| refuse(error.to_string()))?;
        let device = Rc::new(Device::open(options.device, rank, options.check_launches, options.wait_limit)?);
        let arena = Arena::new(Rc::clone(&device), options.chunk_bytes);
        let mut weights = WeightUpload::new(&device)?;
        let mut host = host;
        let counts: Vec<u32> = (0..=STEP_ROWS_MAX as u32).collect();
        let counts_at = arena.buffer("counts", COUNTS_BYTES)?;
        // Words are words.
        weights.vector(counts_at.at(), bytemuck::cast_slice(&counts))?;
        let cublaslt = match cublaslt::is_present() && !options.deterministic {
            true => Some(CublasLt::new(&device, &arena)?),
            false => None,
        };
        if rank == 0 && cublaslt.is_none() {
            let why = if options.deterministic { "one order of sums" } else { "libcublasLt.so cannot be opened" };
            tracing::info!("products of many rows by this program's own kernels: {why}");
        }
        let all_reduce_path = AllReducePath::choose(&device, &mut *host, options.all_reduce)?;
        device.set_peers(host.processes());
        let footprint = CudaFootprint {
            product_blocks: product::blocks_max(&device),
            cublaslt: cublaslt.is_some(),
            peer_blocks: match &all_reduce_path {
                AllReducePath::Peers(peers) => Some(peers.blocks()),
                _ => None,
            },
            chunk_bytes: options.chunk_bytes,
        };
        Ok(Self {
            options: options.clone(),
            footprint,
            graphs: Graphs::default(),
            limits: None,
            in_flight: InFlightSteps::new(&device, StepTimeLimits::of_rank(options.step_limit, options.wait_limit))?,
            kernels: Kernels::load(&device)?,
            all_reduce_path,
            host,
            cublaslt,
            weights: Some(weights),
            staging: Staging::new(&device, STAGING_BYTES)?,
            token_buffer: TokenBuffer::new(),
            step_memory: StepMemory::new(options.deterministic),
            sampling: Sampling::new(&device),
            counts: counts_at,
            identity: Identity { ones: None, zeros: None },
            partials: Scratch::new("partial sums of products"),
            tickets: Scratch::zeros("tickets of products"),
            attention_partials: Scratch::new("partial results of attention"),
            attention_tickets: Scratch::zeros("tickets of attention"),
            term: Scratch::new("a term of a sum"),
            whole_rows: Scratch::new("rows of logits"),
            tiles_max: 0,
            attention: None,
            arena,
            device,
        })
    }

    fn weights(&mut self) -> &mut WeightUpload {
        self.weights.as_mut().expect("weights are loaded before the rank is ready")
    }

    /// The numbers of rows that there can be, on the device.
    pub(crate) fn counts(&self) -> RowCount {
        RowCount { at: self.counts.at(), most: STEP_ROWS_MAX }
    }

    /// `rows` rows are in use.
    pub(crate) fn exactly(&self, rows: usize) -> RowCount {
        exactly(self.counts(), rows)
    }

    /// One product or two, or one sum over the inputs of both. Of more rows than scratch is made for, some after the others.
    fn product(
        &mut self,
        parts: &[(Weight, View<bf16>, Output)],
        concatenated: bool,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        if rows.most <= PRODUCT_ROWS_MAX {
            return self.product_at_once(parts, concatenated, rows);
        }
        for first in (0..rows.most).step_by(PRODUCT_ROWS_MAX) {
            let here = |(weight, x, y): &(Weight, View<bf16>, Output)| (*weight, x.from(first), y.from(first));
            let parts: Vec<_> = parts.iter().map(here).collect();
            let rows = self.exactly((rows.most - first).min(PRODUCT_ROWS_MAX));
            self.product_at_once(&parts, concatenated, rows)?;
        }
        Ok(())
    }

    fn product_at_once(
        &mut self,
        parts: &[(Weight, View<bf16>, Output)],
        concatenated: bool,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        let tile_counts = parts.iter().map(|(weight, ..)| tiles(weight.weight.rows));
        let chunk_counts = parts.iter().map(|(weight, ..)| chunks(weight.weight.columns));
        let (tiles, chunks) = if concatenated {
            (tile_counts.max(), Some(chunk_counts.sum()))
        } else {
            (Some(tile_counts.sum()), chunk_counts.max())
        };
        let plan = Plan::new(&self.device, rows.most, tiles.unwrap_or(0), chunks.unwrap_or(0), false);
        let scratch = ProductScratch {
            partials: self.partials.at_least(&self.arena, plan.partials_bytes)?,
            tickets: self.tickets.at_least(&self.arena, plan.tickets_bytes)?,
        };
        self.kernels.product.launch(&self.device, &plan, &scratch, parts, concatenated, rows)
    }

    /// A product of more rows than the kernels are made for, if cuBLASLt serves: it adds no bias.
    fn many_rows(&mut self, rows: usize, biased: bool) -> Option<&mut CublasLt> {
        self.cublaslt.as_mut().filter(|_| rows > OWN_PRODUCT_ROWS_MAX && !biased)
    }

    /// The tensor as products read it: rounded to bf16, where it is not already.
    fn rounded(&self, x: &CudaTensor) -> Result<View<bf16>, BackendError> {
        if x.form() == Form::Bf16 || x.rounded().get() {
            return Ok(x.bf16());
        }
        let identity = |vector: &Option<CudaVector>| vector.as_ref().expect("made with the widest tensor").view();
        let (ones, zeros) = (identity(&self.identity.ones), identity(&self.identity.zeros));
        let whole = View::new(x.f32().at, x.rows_max(), x.stride(), x.stride());
        // With moments of 0 and 1 for eps, the variance is 1.
        let moments = Moments { at: zeros.at, stride: 0 };
        let to = [(ones, zeros, x.bf16())];
        self.kernels.norm.launch(&self.device, (&whole, moments, 0), &to, 1.0, x.count())?;
        x.rounded().set(true);
        Ok(x.bf16())
    }

    /// The moments of a tensor's rows, which a norm needs: they are there if a sum over ranks has written the tensor.
    fn moments(&self, x: &CudaTensor) -> Result<Moments, BackendError> {
        assert_eq!(x.form(), Form::F32, "what a norm is applied to is f32");
        assert_eq!(x.columns(), x.stride(), "columns of what a norm is applied to: expected a multiple of 8");
        if !x.has_moments().get() {
            self.add_own(x.f32().at, x, false)?;
        }
        Ok(x.moments())
    }

    /// `y = bias`: a product without inputs.
    fn fill(&mut self, bias: Option<&CudaVector>, y: &mut CudaTensor) -> Result<(), BackendError> {
        let view = y.f32();
        let row_bytes = view.stride * size_of::<f32>();
        // SAFETY: the rows are in the tensor; a bias is padded as its rows are.
        unsafe {
            self.device.zero(view.at, y.rows() * row_bytes)?;
            for row in 0..y.rows() {
                if let Some(bias) = bias {
                    self.device.copy(view.row(row), bias.view().at, bias.view().columns * size_of::<f32>())?;
                }
            }
        }
        Ok(())
    }

    /// `to = x·Wᵀ + b`, where there is something to multiply.
    fn linear_to(&mut self, x: &CudaTensor, linear: &Linear<Self>, to: View<f32>) -> Result<(), BackendError> {
        let (rows, weight) = (x.count(), linear.weight.view());
        let x = self.rounded(x)?;
        if let Some(library) = self.many_rows(rows.most, linear.bias.is_some()) {
            return library.product(&x, &weight, &to, rows.most, false);
        }
        let part = (linear.weight.weight(linear.bias.as_ref()), x, Output::F32(to));
        self.product(&[part], false, rows)
    }

    /// Products over up to 16 rows, normalized on their way in.
    fn norm_products(
        &mut self,
        x: &CudaTensor,
        gather: u64,
        products: &mut [NormLinear<'_, Self>],
        rows: RowCount,
    ) -> Result<(), BackendError> {
        let moments = self.moments(x)?;
        let parts: Vec<NormedPart> = products.iter_mut().map(normed_part).collect();
        let tiles = parts.iter().map(|part| tiles(part.weight.weight.rows)).sum();
        let plan = Plan::new(&self.device, rows.most, tiles, chunks(x.columns()), true);
        let (view, eps) = (x.f32(), products[0].norm.eps);
        let scratch = ProductScratch {
            partials: self.partials.at_least(&self.arena, plan.partials_bytes)?,
            tickets: self.tickets.at_least(&self.arena, plan.tickets_bytes)?,
        };
        let x = (&view, moments, gather);
        self.kernels.norm_product.launch(&self.device, (&plan, &scratch), x, &parts, eps, rows)
    }

    /// Norms first, products then.
    fn norms_and_products(
        &mut self,
        x: &CudaTensor,
        gather: u64,
        products: &mut [NormLinear<'_, Self>],
        normed: &mut CudaTensor,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        let moments = self.moments(x)?;
        normed.becomes(Form::Bf16);
        let one_norm = products.iter().all(|product| std::ptr::eq(product.norm, products[0].norm));
        let places = [normed.bf16(), if one_norm { normed.bf16() } else { normed.second_bf16() }];
        let to = |index: usize| {
            let norm = products[index].norm;
            (norm.scale.view(), norm.bias.view(), places[index])
        };
        let norms: Vec<_> = (0..if one_norm { 1 } else { products.len() }).map(to).collect();
        let (view, eps) = (x.f32(), products[0].norm.eps);
        self.kernels.norm.launch(&self.device, (&view, moments, gather), &norms, eps, rows)?;
        let biased = products.iter().any(|product| product.linear.bias.is_some());
        if self.many_rows(rows.most, biased).is_none() {
            let part = |(product, x): (&mut NormLinear<'_, Self>, View<bf16>)| {
                let NormedPart { weight, y, .. } = normed_part(product);
                (weight, x, y)
            };
            let parts: Vec<_> = products.iter_mut().zip(places).map(part).collect();
            return self.product(&parts, false, rows);
        }
        for (product, x) in products.iter_mut().zip(places) {
            product.y.becomes(Form::F32);
            let (weight, y) = (product.linear.weight.view(), product.y.f32());
            let library = self.many_rows(rows.most, biased).expect("it was there above");
            library.product(&x, &weight, &y, rows.most, false)?;
            if product.gelu {
                self.gelu(product.y)?;
            }
        }
        Ok(())
    }

    /// Products under their norms, of all rows of x or of those at `gather`, at most two at a time.
    fn under_norms(
        &mut self,
        x: &CudaTensor,
        gather: u64,
        products: &mut [NormLinear<'_, Self>],
        normed: &mut CudaTensor,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        let few = rows.most <= NORM_PRODUCT_ROWS_MAX;
        let alike = |a: &NormLinear<'_, Self>, b: &NormLinear<'_, Self>| a.norm.eps.to_bits() == b.norm.eps.to_bits();
        let mut rest = products;
        while !rest.is_empty() {
            let count = if rest.len() > 1 && alike(&rest[0], &rest[1]) { 2 } else { 1 };
            let (now, behind) = rest.split_at_mut(count);
            if few {
                self.norm_products(x, gather, now, rows)?;
            } else {
                self.norms_and_products(x, gather, now, normed, rows)?;
            }
            rest = behind;
        }
        Ok(())
    }

    /// Attention of a step over the layer's cache.
    fn attend_step(
        &mut self,
        step: &StepAt,
        qkv: &CudaTensor,
        layer: usize,
        cache: &CudaKvCache,
        y: &mut CudaTensor,
    ) -> Result<(), BackendError> {
        let width = attention::WIDTHS[cache.width];
        let (partials, tickets) = attention::scratch_bytes(step.rows, step.positions, cache.tile_count, width);
        y.becomes(Form::Bf16);
        let attention = Attention {
            step,
            width: cache.width,
            cache: cache.layer(layer),
            kv_heads: cache.shape.groups.len(),
            tiles: cache.tiles.at(),
            tile_count: cache.tile_count,
            rotations: cache.rotations(),
            slopes: cache.slopes(),
            qkv: qkv.f32(),
            queries: y.second_bf16(),
            y: y.bf16(),
            partials: self.attention_partials.at_least(&self.arena, partials)?,
            tickets: self.attention_tickets.at_least(&self.arena, tickets)?,
        };
        let (kernels, device) = (&self.kernels, &self.device);
        if step.single_rows {
            return kernels.attention.launch(device, &attention, true);
        }
        kernels.rotate_store.launch(device, &attention)?;
        kernels.attention.launch(device, &attention, false)?;
        if step.prefill_items > 0 {
            kernels.prefill_attention.launch(device, &attention)?;
        }
        Ok(())
    }

    /// Makes the scratch for any step within `limits`.
    fn reserve(&mut self, limits: &StepLimits) -> Result<(), BackendError> {
        let vocab = limits.vocab.iter().sum::<usize>();
        let launch = limits.logits_rows;
        let capacity = sample_capacity(limits);
        self.sampling.reserve(&self.arena, &capacity)?;
        self.token_buffer.reserve(&self.arena, limits.sequences, limits.positions + 1, launch)?;
        // What one step sends fits into one buffer, while another step's is on its way from the other.
        let masks_and_extras = capacity.rows * (vocab.div_ceil(32) * size_of::<u32>() + EXTRAS_BYTES_MAX);
        let step_bytes = self.step_memory.reserve(&self.arena, limits.rows, limits.positions)?;
        self.staging.reserve(step_bytes + masks_and_extras + limits.positions * size_of::<u32>())?;
        self.whole_rows.at_least(&self.arena, launch * vocab * size_of::<f32>())?;
        let (partials, tickets) = product_scratch(limits, self.tiles_max, product::blocks_max(&self.device));
        self.partials.at_least(&self.arena, partials)?;
        self.tickets.at_least(&self.arena, tickets)?;
        if let Some((tiles, width, positions)) = self.attention {
            let (partials, tickets) = attention::scratch_bytes(limits.rows, positions, tiles, width);
            self.attention_partials.at_least(&self.arena, partials)?;
            self.attention_tickets.at_least(&self.arena, tickets)?;
        }
        if let AllReducePath::Peers(peers) = &mut self.all_reduce_path {
            let (partial_bytes, logits_bytes) = buffer_bytes(limits);
            peers.reserve(&mut *self.host, partial_bytes, logits_bytes)?;
        }
        Ok(())
    }
}

/// Of any step within `limits`.
pub(crate) fn sample_capacity(limits: &StepLimits) -> SampleCapacity {
    let (launch, vocab) = (limits.logits_rows, limits.vocab.iter().sum());
    SampleCapacity { launch, rows: launch.max(graphs::rows_max(limits)), step: limits.rows, vocab }
}

/// Bytes of partial sums and tickets of two of the widest weights, by as many blocks as there can be: with a chunk for each
/// of them.
pub(crate) fn product_scratch(limits: &StepLimits, tiles_max: usize, blocks: usize) -> (usize, usize) {
    let rows = PRODUCT_ROWS_MAX.min(limits.rows.max(limits.logits_rows));
    product::scratch_bytes(rows, 2 * tiles_max, blocks)
}

/// Outputs of `sample_or_score`, here or on their way.
pub struct CudaPending(Outputs);

enum Outputs {
    Here(Vec<SampleOutput>),
    OnDevice(PendingSamples),
    /// None, but the end of a step.
    End(u64),
}

impl CudaPending {
    pub(crate) fn nothing() -> Self {
        Self::here(Vec::new())
    }

    pub(crate) fn here(outputs: Vec<SampleOutput>) -> Self {
        Self(Outputs::Here(outputs))
    }

    pub(crate) fn pending(pending: PendingSamples) -> Self {
        Self(Outputs::OnDevice(pending))
    }
}

/// One product under its norm, as kernels take it; `y` becomes what it will be.
fn normed_part(product: &mut NormLinear<'_, Cuda>) -> NormedPart {
    product.y.becomes(if product.gelu { Form::Bf16 } else { Form::F32 });
    NormedPart {
        weight: product.linear.weight.weight(product.linear.bias.as_ref()),
        scale: product.norm.scale.view(),
        shift: product.norm.bias.view(),
        y: if product.gelu { Output::GeluBf16(product.y.bf16()) } else { Output::F32(product.y.f32()) },
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // A communicator's end waits for the graphs that use it.
        self.graphs.clear();
        if let AllReducePath::Peers(peers) = &mut self.all_reduce_path {
            // Where another rank is gone, memory that it may still read goes with this process.
            let _ = peers.close(&mut *self.host);
        }
    }
}

impl Backend for Cuda {
    type Tensor = CudaTensor;
    type Matrix = CudaMatrix;
    type Vector = CudaVector;
    type KvCache = CudaKvCache;
    type Step<'a> = CudaStep<'a>;
    type Pending = CudaPending;

    /// Each time, the output projection is read.
    const LOGITS_ROWS_MAX: usize = limits::LOGITS_ROWS_MAX;
    const HIDDEN_MULTIPLE: usize = PAD;

    fn head_width(head_dim: usize) -> usize {
        cache::head_width(head_dim)
    }

    fn footprint(&self) -> &dyn Footprint {
        &self.footprint
    }

    fn matrix(&mut self, rows: usize, columns: usize, read: &ReadWeights<'_>) -> Result<CudaMatrix, BackendError> {
        let bytes = CudaMatrix::elements(rows, columns) * size_of::<bf16>();
        let memory = self.arena.buffer("a weight", bytes)?;
        self.weights().matrix(memory.at(), rows, columns, read)?;
        self.tiles_max = self.tiles_max.max(tiles(rows.next_multiple_of(PAD)));
        Ok(CudaMatrix { memory, rows, columns })
    }

    fn vector(&mut self, values: &[f32]) -> Result<CudaVector, BackendError> {
        let memory = self.arena.buffer("a vector", CudaVector::bytes(values.len()))?;
        self.weights().vector(memory.at(), values)?;
        Ok(CudaVector { memory, len: values.len() })
    }

    fn tensor(&mut self, rows_max: usize, columns: usize) -> Result<CudaTensor, BackendError> {
        let tensor = CudaTensor::new(&self.arena, rows_max, columns, self.counts())?;
        let stride = tensor.stride();
        if self.identity.ones.as_ref().is_none_or(|ones| ones.len < stride) {
            self.identity.ones = Some(self.vector(&vec![1.0; stride])?);
            self.identity.zeros = Some(self.vector(&vec![0.0; stride])?);
        }
        Ok(tensor)
    }

    fn kv_cache(&mut self, shape: &AttentionShape, layers: usize, blocks: usize) -> Result<CudaKvCache, BackendError> {
        let weights = self.weights.as_mut().expect("the KV cache is made before the rank is ready");
        let cache = CudaKvCache::new(&self.arena, weights, shape, layers, blocks)?;
        self.attention = Some((cache.tile_count, shape.head_width, shape.max_positions));
        Ok(cache)
    }

    fn seal(&mut self, limits: &StepLimits) -> Result<(), BackendError> {
        if limits.rows > STEP_ROWS_MAX {
            let text = format!(
                "steps of {} rows, at most {STEP_ROWS_MAX} are possible: lower --max-batch-tokens",
                limits.rows
            );
            return Err(self.device.fault_text("making room for steps", &text));
        }
        self.reserve(limits)?;
        self.device.wait("loading")?;
        self.weights = None;
        self.limits = Some(limits.clone());
        self.device.seal();
        Ok(())
    }

    fn buckets(&self) -> Vec<usize> {
        self.buckets_to_capture()
    }

    fn begin_capture<'a>(&mut self, input: StepInput<'a>) -> Result<CudaStep<'a>, BackendError> {
        self.begin_step_capture(input)
    }

    fn end_capture(&mut self, step: CudaStep<'_>) -> Result<(), BackendError> {
        self.end_step_capture(&step)
    }

    fn leaver(&self) -> Option<Leaver> {
        self.host.leaver()
    }

    fn leave(&mut self) -> Result<(), BackendError> {
        // A communicator's end waits for the graphs that use it; one that is on its way is freed when it has ended.
        self.graphs.clear();
        self.all_reduce_path.leave()?;
        self.device.rest("leaving the other ranks")?;
        self.in_flight.forget();
        Ok(())
    }

    fn rejoin(&mut self) -> Result<(), BackendError> {
        self.host.rejoin();
        self.sampling.renew()?;
        self.tickets.renew(&self.device)?;
        self.attention_tickets.renew(&self.device)?;
        self.all_reduce_path.rejoin(&self.device, &mut *self.host, self.options.all_reduce)?;
        self.device.set_peers(self.host.processes());
        self.host.settle();
        self.device.wait("rejoining")
    }

    fn steps_in_flight_max(&self) -> usize {
        // Sums over the host wait for the device.
        if self.options.run_ahead && !matches!(self.all_reduce_path, AllReducePath::Host) { IN_FLIGHT_MAX } else { 1 }
    }

    fn set_tokens(&mut self, slot: usize, start: usize, tokens: &[u32]) -> Result<(), BackendError> {
        self.token_buffer.set(&mut self.staging, slot, start, tokens)
    }

    fn prepare<'a>(&mut self, input: StepInput<'a>) -> Result<CudaStep<'a>, BackendError> {
        self.prepare_step(input)
    }

    fn set_rows(&self, step: &CudaStep<'_>, x: &mut CudaTensor) {
        x.set_count(self.step_rows(step));
    }

    fn replay(&mut self, step: &mut CudaStep<'_>) -> Result<Option<CudaPending>, BackendError> {
        self.replay_step(step)
    }

    fn end(&mut self, step: CudaStep<'_>) -> Result<Option<CudaPending>, BackendError> {
        let number = step.number.expect("the step has begun");
        self.in_flight.submitted(number)?;
        // The step has ended when its last outputs are there.
        Ok(Some(CudaPending(Outputs::End(number))))
    }

    fn poll(&mut self, pending: &CudaPending) -> Result<bool, BackendError> {
        let step = match &pending.0 {
            Outputs::Here(_) => None,
            Outputs::OnDevice(pending) => pending.step,
            Outputs::End(step) => Some(*step),
        };
        if let AllReducePath::Nccl(nccl) = &self.all_reduce_path {
            nccl.check("a step")?;
        }
        match step.map_or(Ok(State::Ended), |step| self.in_flight.state(step))? {
            State::Ended => Ok(true),
            State::OnItsWay => Ok(false),
            State::Late { rows, limit } => {
                let waits = match &self.all_reduce_path {
                    AllReducePath::Peers(peers) => peers.waits_for(self.host.rank(), self.host.world()),
                    _ => None,
                };
                let waits = waits.as_deref().unwrap_or("another rank is gone, or the device hangs");
                let text = format!("{rows} rows have not ended within {} ms: {waits}", limit.as_millis());
                Err(self.device.missed("a step", &text))
            }
        }
    }

    fn wait(&mut self, pending: CudaPending) -> Result<Vec<SampleOutput>, BackendError> {
        let mut backoff = Backoff::default();
        while !self.poll(&pending)? {
            backoff.wait();
        }
        match pending.0 {
            Outputs::Here(outputs) => Ok(outputs),
            Outputs::End(_) => Ok(Vec::new()),
            Outputs::OnDevice(pending) => {
                if pending.step.is_none() {
                    self.device.wait("sampling")?;
                }
                Ok(self.sampling.take(pending))
            }
        }
    }

    fn write(&mut self, x: &mut CudaTensor, values: &[f32]) -> Result<(), BackendError> {
        x.set_rows(values.len().checked_div(x.columns()).unwrap_or(0));
        x.becomes(Form::F32);
        let mut padded = vec![0.0f32; x.rows() * x.stride()];
        for (to, row) in padded.chunks_mut(x.stride().max(1)).zip(values.chunks(x.columns().max(1))) {
            to[..row.len()].copy_from_slice(row);
        }
        // A copy from memory that is not pinned blocks until the stream has come to it.
        self.device.wait("writing a tensor")?;
        // SAFETY: the tensor has room for its rows; `padded` lives until the copy has been waited for.
        unsafe { self.device.upload(x.f32().at, bytemuck::cast_slice(&padded)) }?;
        self.device.wait("writing a tensor")
    }

    fn read(&mut self, x: &CudaTensor) -> Result<Vec<f32>, BackendError> {
        let elements = x.rows() * x.stride();
        let values: Vec<f32> = match x.form() {
            Form::F32 => {
                let mut values = vec![0.0f32; elements];
                let to = bytemuck::cast_slice_mut(&mut values);
                // SAFETY: the rows are in the tensor.
                unsafe { self.device.download("reading a tensor", to, x.f32().at) }?;
                values
            }
            Form::Bf16 => {
                let mut values = vec![bf16::ZERO; elements];
                let to = bytemuck::cast_slice_mut(&mut values);
                // SAFETY: the rows are in the tensor.
                unsafe { self.device.download("reading a tensor", to, x.bf16().at) }?;
                values.into_iter().map(bf16::to_f32).collect()
            }
        };
        let rows = values.chunks(x.stride().max(1));
        Ok(rows.flat_map(|row| row[..x.columns()].to_vec()).collect())
    }

    fn embed(
        &mut self,
        table: &CudaMatrix,
        first: usize,
        step: &CudaStep<'_>,
        y: &mut CudaTensor,
    ) -> Result<(), BackendError> {
        y.becomes(Form::F32);
        let step = self.step_at(step);
        assert_eq!(y.rows(), step.rows, "rows of the embedding");
        if step.rows == 0 {
            return Ok(());
        }
        self.kernels.embed.launch(&self.device, step, &table.view(), first, table.rows, &y.f32())
    }

    fn layer_norm(&mut self, x: &CudaTensor, norm: &Norm<Self>, y: &mut CudaTensor) -> Result<(), BackendError> {
        assert_eq!((x.rows(), x.columns()), (y.rows(), y.columns()), "shapes of a norm");
        let moments = self.moments(x)?;
        y.becomes(Form::Bf16);
        let (view, to) = (x.f32(), [(norm.scale.view(), norm.bias.view(), y.bf16())]);
        self.kernels.norm.launch(&self.device, (&view, moments, 0), &to, norm.eps, x.count())
    }

    fn linear(&mut self, x: &CudaTensor, linear: &Linear<Self>, y: &mut CudaTensor) -> Result<(), BackendError> {
        check_product(x, &linear.weight, y);
        y.becomes(Form::F32);
        if y.rows() == 0 || linear.weight.rows == 0 {
            return Ok(());
        }
        if linear.weight.columns == 0 {
            return self.fill(linear.bias.as_ref(), y);
        }
        self.linear_to(x, linear, y.f32())
    }

    fn linear_add(&mut self, x: &CudaTensor, linear: &Linear<Self>, y: &mut CudaTensor) -> Result<(), BackendError> {
        check_product(x, &linear.weight, y);
        assert_eq!(y.form(), Form::F32, "what is added to is f32");
        if y.rows() == 0 || linear.weight.rows == 0 {
            return Ok(());
        }
        let bytes = y.rows_max() * y.stride() * size_of::<f32>();
        let at = self.term.at_least(&self.arena, bytes)?.at();
        let term = View::new(at, y.rows_max(), y.columns(), y.stride());
        if linear.weight.columns == 0 {
            let Some(bias) = &linear.bias else { return Ok(()) };
            for row in 0..y.rows() {
                // SAFETY: the rows are in the scratch; a bias is padded as its rows are.
                unsafe { self.device.copy(term.row(row), bias.view().at, y.stride() * size_of::<f32>()) }?;
            }
        } else {
            self.linear_to(x, linear, term)?;
        }
        y.rounded().set(false);
        self.add_own(term.at, y, true)
    }

    fn gelu(&mut self, x: &mut CudaTensor) -> Result<(), BackendError> {
        assert_eq!(x.form(), Form::F32, "what gelu is applied to is f32");
        let (from, to, rows) = (x.f32(), x.bf16(), x.count());
        x.becomes(Form::Bf16);
        if rows.most == 0 || from.stride == 0 {
            return Ok(());
        }
        self.kernels.gelu.launch(&self.device, &from, &to, rows)
    }

    fn attend(
        &mut self,
        qkv: &CudaTensor,
        step: &CudaStep<'_>,
        layer: usize,
        cache: &mut CudaKvCache,
        y: &mut CudaTensor,
    ) -> Result<(), BackendError> {
        let step = self.step_at(step);
        assert_eq!(qkv.columns(), cache.shape.qkv_columns(), "columns of queries, keys and values");
        assert_eq!(y.columns(), cache.shape.attended_columns(), "columns of attention's result");
        assert!(qkv.rows() == step.rows && y.rows() == step.rows, "rows of attention");
        assert_eq!(qkv.form(), Form::F32, "queries, keys and values are f32");
        if step.rows == 0 || cache.tile_count == 0 {
            y.becomes(Form::Bf16);
            return Ok(());
        }
        assert!(step.positions <= cache.shape.max_positions, "{} positions", step.positions);
        assert!((step.block_max as usize) < cache.blocks, "block {} of {}", step.block_max, cache.blocks);
        self.attend_step(step, qkv, layer, cache, y)
    }

    fn select(&mut self, x: &CudaTensor, rows: &[usize], y: &mut CudaTensor) -> Result<(), BackendError> {
        assert_eq!((x.form(), x.stride()), (Form::F32, y.stride()), "rows that are selected");
        y.becomes(Form::F32);
        y.set_rows(rows.len());
        for (to, &from) in rows.iter().enumerate() {
            assert!(from < x.rows(), "row {from} of {}", x.rows());
            // SAFETY: both rows are in their tensors.
            unsafe { self.device.copy(y.f32().row(to), x.f32().row(from), x.stride() * size_of::<f32>()) }?;
        }
        Ok(())
    }

    fn all_reduce(&mut self, x: &mut CudaTensor) -> Result<(), BackendError> {
        self.sum_in_place(x)
    }

    fn all_reduce_add(&mut self, partial: &mut CudaTensor, x: &mut CudaTensor) -> Result<(), BackendError> {
        self.sum_and_add(partial, x)
    }

    fn sample_or_score(
        &mut self,
        logits: &CudaTensor,
        vocab: &[usize],
        step: &CudaStep<'_>,
        wanted: Range<usize>,
    ) -> Result<CudaPending, BackendError> {
        self.sample_rows(logits, vocab, step, wanted)
    }

    fn norm_linear(
        &mut self,
        x: &CudaTensor,
        products: &mut [NormLinear<'_, Self>],
        normed: &mut CudaTensor,
    ) -> Result<(), BackendError> {
        let mut live = Vec::with_capacity(products.len());
        for product in products {
            assert_eq!(
                (x.rows(), x.columns()),
                (product.y.rows(), product.linear.weight.columns),
                "shapes of a product"
            );
            assert_eq!(product.y.columns(), product.linear.weight.rows, "columns of a product");
            if product.linear.weight.rows == 0 {
                product.y.becomes(if product.gelu { Form::Bf16 } else { Form::F32 });
            } else {
                let NormLinear { norm, linear, gelu, y } = product;
                live.push(NormLinear { norm, linear, gelu: *gelu, y });
            }
        }
        if x.rows() == 0 {
            return Ok(());
        }
        self.under_norms(x, 0, &mut live, normed, x.count())
    }

    fn select_norm_linear(
        &mut self,
        x: &CudaTensor,
        step: &CudaStep<'_>,
        wanted: Range<usize>,
        product: NormLinear<'_, Self>,
        [_, normed]: [&mut CudaTensor; 2],
    ) -> Result<(), BackendError> {
        let (gather, count) = self.wanted_rows(step, &wanted);
        normed.set_count(count);
        product.y.set_count(count);
        if count.most == 0 || product.linear.weight.rows == 0 {
            product.y.becomes(Form::F32);
            return Ok(());
        }
        self.under_norms(x, gather, &mut [product], normed, count)
    }

    fn dense_and_down(
        &mut self,
        attention: &CudaTensor,
        dense: &Linear<Self>,
        up: &CudaTensor,
        down: &Linear<Self>,
        y: &mut CudaTensor,
    ) -> Result<(), BackendError> {
        check_product(attention, &dense.weight, y);
        check_product(up, &down.weight, y);
        assert!(down.bias.is_none(), "the bias of a sum of products is that of the first");
        self.alias_to_peers(y);
        let (rows, to) = (y.count(), y.f32());
        if rows.most == 0 {
            return Ok(());
        }
        let mut inputs = Vec::with_capacity(2);
        for (x, weight) in [(attention, &dense.weight), (up, &down.weight)] {
            if weight.columns > 0 {
                inputs.push((self.rounded(x)?, weight.view()));
            }
        }
        if inputs.is_empty() {
            return self.fill(dense.bias.as_ref(), y);
        }
        if let Some(library) = self.many_rows(rows.most, dense.bias.is_some()) {
            for (index, (x, weight)) in inputs.iter().enumerate() {
                library.product(x, weight, &to, rows.most, index > 0)?;
            }
            return Ok(());
        }
        let bias = dense.bias.as_ref().map(CudaVector::view);
        let part = |(x, weight)| (Weight { weight, bias }, x, Output::F32(to));
        let parts: Vec<_> = inputs.into_iter().map(part).collect();
        self.product(&parts, parts.len() == 2, rows)
    }
}

fn check_product(x: &CudaTensor, weight: &CudaMatrix, y: &CudaTensor) {
    assert_eq!((x.rows(), x.columns()), (y.rows(), weight.columns), "the input's shape");
    assert_eq!(y.columns(), weight.rows, "the output's columns");
}
