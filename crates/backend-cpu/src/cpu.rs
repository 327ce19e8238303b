//! The backend.

use crate::cpu_step::CpuStep;
use crate::executor::{Executor, INPUTS, TASK_ELEMENTS};
use crate::footprint::{CpuFootprint, whole_rows_len};
use crate::kernels::amx::Input;
use crate::kernels::gelu::Gelu;
use crate::kernels::norm::LayerNorm;
use crate::kernels::pool::Pool;
use crate::kernels::simd::dispatch;
use crate::kernels::sum::AddTo;
use crate::kernels::tiles::Cuts;
use crate::products::{Factor, Source, Sum};
use crate::sync::SPINS;
use crate::{CpuKvCache, CpuMatrix, CpuTensor, Isa};
use backend::{
    AttentionShape, Backend, BackendError, Collective, Footprint, Linear, MappedWeight, Norm, NormLinear, ReadWeights,
    SampleOutput, StepInput, StepLimits, Tensor, sample_or_score_row,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ops::Range;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// How a rank uses the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads of the rank; 0 counts as 1. The thread that owns the backend is one of them.
    pub threads: usize,
    /// The instruction set; `None`: the richest that the CPU has.
    pub isa: Option<Isa>,
    /// Cores to hold all threads on; `None`: anywhere.
    pub cores: Option<Vec<usize>>,
}

/// One rank on a CPU. It must be made on the thread that uses it.
pub struct Cpu<C> {
    executor: Executor,
    footprint: CpuFootprint,
    collective: C,
    /// Whole rows of logits, a few at a time.
    whole_rows: Vec<f32>,
    /// How long all-reduces took since that was asked last.
    all_reduce_time: Duration,
}

impl<C: Collective> Cpu<C> {
    /// Starts the rank's threads.
    ///
    /// # Errors
    ///
    /// [`BackendError::Device`]: the CPU lacks the instruction set, or a thread could not be started or pinned.
    pub fn new(options: &CpuOptions, collective: C) -> Result<Self, BackendError> {
        let device = |operation: &'static str, message: String| BackendError::Device { operation, message };
        let threads = options.threads.max(1);
        let isa = choose_isa(options.isa, Isa::supported);
        let isa = isa.map_err(|message| device("choosing the instruction set", message))?;
        // Threads that this one starts inherit its cores.
        if let Some(cores) = &options.cores {
            hold_this_thread(cores).map_err(|error| device("choosing cores", format!("{cores:?}: {error}")))?;
        }
        // Where threads outnumber the cores, one that spins keeps another from its work.
        let cores = available_parallelism().map_or(1, usize::from);
        let ranks_here = if options.cores.is_some() { 1 } else { collective.world() };
        let spins = if threads * ranks_here <= cores { SPINS } else { 0 };
        let pool = Pool::new(threads, spins).map_err(|error| device("starting threads", error.to_string()))?;
        let footprint = CpuFootprint::new(Some(isa), threads);
        let executor = Executor::new(isa, pool)?;
        Ok(Self { executor, footprint, collective, whole_rows: Vec::new(), all_reduce_time: Duration::ZERO })
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.executor.isa
    }
}

impl<C: Collective> Backend for Cpu<C> {
    type Tensor = CpuTensor;
    type Matrix = CpuMatrix;
    type Vector = Vec<f32>;
    type KvCache = CpuKvCache;
    type Step<'a> = CpuStep<'a>;
    type Pending = Vec<SampleOutput>;

    fn footprint(&self) -> &dyn Footprint {
        &self.footprint
    }

    fn matrix(&mut self, rows: usize, columns: usize, read: &ReadWeights<'_>) -> Result<CpuMatrix, BackendError> {
        self.executor.matrix(rows, columns, read)
    }

    fn mapped_matrix(
        &mut self,
        weight: impl FnOnce() -> Option<MappedWeight>,
    ) -> Result<Option<CpuMatrix>, BackendError> {
        // The matrix unit wants tiles.
        let weight = if self.isa() == Isa::Amx { None } else { weight() };
        weight.map(|weight| self.executor.mapped_matrix(&weight)).transpose()
    }

    fn vector(&mut self, values: &[f32]) -> Result<Vec<f32>, BackendError> {
        Ok(values.to_vec())
    }

    fn tensor(&mut self, rows_max: usize, columns: usize) -> Result<CpuTensor, BackendError> {
        self.executor.make_room(rows_max, columns)?;
        CpuTensor::new(rows_max, columns, self.isa())
    }

    fn kv_cache(&mut self, shape: &AttentionShape, layers: usize, blocks: usize) -> Result<CpuKvCache, BackendError> {
        for scratch in &mut self.executor.scratch {
            scratch.attention.reserve(shape.head_dim, shape.max_positions);
        }
        CpuKvCache::new(shape, layers, blocks)
    }

    fn seal(&mut self, limits: &StepLimits) -> Result<(), BackendError> {
        let threads = self.executor.pool.threads();
        self.whole_rows.reserve_exact(whole_rows_len(threads, limits.logits_rows, &limits.vocab));
        Ok(())
    }

    fn prepare<'a>(&mut self, input: StepInput<'a>) -> Result<CpuStep<'a>, BackendError> {
        Ok(CpuStep::new(input))
    }

    fn set_rows(&self, step: &CpuStep<'_>, x: &mut CpuTensor) {
        x.set_rows(step.input.batch.rows());
    }

    fn write(&mut self, x: &mut CpuTensor, values: &[f32]) -> Result<(), BackendError> {
        x.set_rows(values.len().checked_div(x.columns()).unwrap_or(0));
        x.used_mut().copy_from_slice(values);
        Ok(())
    }

    fn read(&mut self, x: &CpuTensor) -> Result<Vec<f32>, BackendError> {
        Ok(x.to_vec())
    }

    fn embed(
        &mut self,
        table: &CpuMatrix,
        first: usize,
        step: &CpuStep<'_>,
        y: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        for (row, &token) in step.input.batch.tokens.iter().enumerate() {
            match (token as usize).checked_sub(first).filter(|&entry| entry < table.rows) {
                Some(entry) => table.read_row(entry, y.row_mut(row)),
                None => y.row_mut(row).fill(0.0),
            }
        }
        Ok(())
    }

    fn layer_norm(&mut self, x: &CpuTensor, norm: &Norm<Self>, y: &mut CpuTensor) -> Result<(), BackendError> {
        assert_eq!((x.rows(), x.columns()), (y.rows(), y.columns()), "shapes of a norm");
        let (isa, columns) = (self.executor.isa, x.columns());
        let (rows, whole) = (Cuts::Every(TASK_ELEMENTS.div_ceil(columns.max(1))), Cuts::Every(columns.max(1)));
        self.executor.pool.for_each_plain_tile(y.used_mut(), columns, rows, whole, |mut tile| {
            for row in tile.rows.clone() {
                let y = tile.row(row);
                dispatch(isa, LayerNorm { x: x.row(row), scale: &norm.scale, bias: &norm.bias, eps: norm.eps, y });
            }
        });
        Ok(())
    }

    fn linear(&mut self, x: &CpuTensor, linear: &Linear<Self>, y: &mut CpuTensor) -> Result<(), BackendError> {
        self.executor.product(x, factor(linear), y, false);
        Ok(())
    }

    fn linear_add(&mut self, x: &CpuTensor, linear: &Linear<Self>, y: &mut CpuTensor) -> Result<(), BackendError> {
        self.executor.product(x, factor(linear), y, true);
        Ok(())
    }

    fn gelu(&mut self, x: &mut CpuTensor) -> Result<(), BackendError> {
        let isa = self.executor.isa;
        self.executor.pool.for_each_part(x.used_mut(), TASK_ELEMENTS, |_, x| dispatch(isa, Gelu { x }));
        Ok(())
    }

    fn norm_linear(
        &mut self,
        x: &CpuTensor,
        products: &mut [NormLinear<'_, Self>],
        normed: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        if self.isa() != Isa::Amx {
            return backend::norm_then_linear(self, x, products, normed);
        }
        let mut packed: Vec<&Norm<Self>> = Vec::new();
        let mut sums: Vec<Sum<'_>> = Vec::new();
        for NormLinear { norm, linear, gelu, y } in products {
            let input = packed.iter().position(|packed| std::ptr::eq(*packed, *norm)).unwrap_or_else(|| {
                if packed.len() == INPUTS {
                    self.executor.sums(&mut sums, false);
                    sums.clear();
                    packed.clear();
                }
                let Norm { scale, bias, eps } = norm;
                self.executor.pack(packed.len(), x, &Input::Norm { x: x.used(), scale, bias, eps: *eps });
                packed.push(norm);
                packed.len() - 1
            });
            sums.push(Sum { terms: vec![(Source::Input(input), factor(linear))], gelu: *gelu, y });
        }
        self.executor.sums(&mut sums, false);
        Ok(())
    }

    fn dense_and_down(
        &mut self,
        attention: &CpuTensor,
        dense: &Linear<Self>,
        up: &CpuTensor,
        down: &Linear<Self>,
        y: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        if self.isa() != Isa::Amx {
            return backend::dense_then_down(self, attention, dense, up, down, y);
        }
        let sources = [self.executor.source(0, attention), self.executor.source(1, up)];
        let terms = sources.into_iter().zip([factor(dense), factor(down)]).collect();
        self.executor.sums(&mut [Sum { terms, gelu: false, y }], false);
        Ok(())
    }

    fn attend(
        &mut self,
        qkv: &CpuTensor,
        step: &CpuStep<'_>,
        layer: usize,
        cache: &mut CpuKvCache,
        y: &mut CpuTensor,
    ) -> Result<(), BackendError> {
        cache.attend(&mut self.executor, qkv, step, layer, y);
        Ok(())
    }

    fn select(&mut self, x: &CpuTensor, rows: &[usize], y: &mut CpuTensor) -> Result<(), BackendError> {
        y.set_rows(rows.len());
        for (i, &row) in rows.iter().enumerate() {
            y.row_mut(i).copy_from_slice(x.row(row));
        }
        Ok(())
    }

    fn select_norm_linear(
        &mut self,
        x: &CpuTensor,
        step: &CpuStep<'_>,
        wanted: Range<usize>,
        product: NormLinear<'_, Self>,
        scratch: [&mut CpuTensor; 2],
    ) -> Result<(), BackendError> {
        backend::select_then_norm_linear(self, x, &step.input.rows[wanted], product, scratch)
    }

    fn all_reduce(&mut self, x: &mut CpuTensor) -> Result<(), BackendError> {
        let begun = Instant::now();
        self.collective.all_reduce(x.used_mut())?;
        self.all_reduce_time += begun.elapsed();
        Ok(())
    }

    fn all_reduce_time(&mut self) -> Option<Duration> {
        Some(std::mem::take(&mut self.all_reduce_time))
    }

    fn all_reduce_add(&mut self, partial: &mut CpuTensor, x: &mut CpuTensor) -> Result<(), BackendError> {
        assert_eq!((partial.rows(), partial.columns()), (x.rows(), x.columns()), "shapes of a sum");
        self.all_reduce(partial)?;
        let (isa, partial) = (self.executor.isa, partial.used());
        self.executor.pool.for_each_part(x.used_mut(), TASK_ELEMENTS, |columns, sum| {
            dispatch(isa, AddTo { sum, term: &partial[columns] });
        });
        Ok(())
    }

    fn wait(&mut self, outputs: Vec<SampleOutput>) -> Result<Vec<SampleOutput>, BackendError> {
        Ok(outputs)
    }

    fn sample_or_score(
        &mut self,
        logits: &CpuTensor,
        vocab: &[usize],
        step: &CpuStep<'_>,
        wanted: Range<usize>,
    ) -> Result<Vec<SampleOutput>, BackendError> {
        let requests = &step.input.requests[wanted];
        assert_eq!(logits.rows(), requests.len(), "one request for each row of logits");
        let columns: usize = vocab.iter().sum();
        let at_once = self.executor.pool.threads();
        let mut outputs = Vec::new();
        outputs.resize(requests.len(), None);
        self.whole_rows.resize(at_once.min(requests.len()) * columns, 0.0);
        for (chunk, (requests, outputs)) in requests.chunks(at_once).zip(outputs.chunks_mut(at_once)).enumerate() {
            for (i, whole) in self.whole_rows.chunks_exact_mut(columns).take(requests.len()).enumerate() {
                self.collective.all_gather(logits.row(chunk * at_once + i), vocab, whole)?;
            }
            let whole_rows = &self.whole_rows;
            let scratch = &mut self.executor.scratch;
            self.executor.pool.for_each_tile(
                outputs,
                1,
                Cuts::Every(1),
                Cuts::Every(1),
                scratch,
                |scratch, mut tile| {
                    let row = tile.row_part;
                    let logits = &whole_rows[row * columns..][..columns];
                    tile.row(row)[0] = Some(sample_or_score_row(&mut scratch.sampler, logits, &requests[row]));
                },
            );
        }
        Ok(outputs.into_iter().map(|output| output.expect("each row has been used")).collect())
    }
}

fn factor<C: Collective>(linear: &Linear<Cpu<C>>) -> Factor<'_> {
    Factor { weight: &linear.weight, bias: linear.bias.as_deref() }
}

/// The share that rank `rank` of `world` has of the cores that this process may use; `None` where there is only one rank,
/// or not a core for each.
#[must_use]
pub fn own_cores(rank: usize, world: usize) -> Option<Vec<usize>> {
    let allowed = sched_getaffinity(None).ok()?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    let share = |rank: usize| rank * cores.len() / world;
    (world > 1 && cores.len() >= world).then(|| cores[share(rank)..share(rank + 1)].to_vec())
}

fn hold_this_thread(cores: &[usize]) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set)
}

/// The instruction set that was asked for, or the richest that the CPU `has`.
fn choose_isa(asked: Option<Isa>, has: impl Fn(Isa) -> bool) -> Result<Isa, String> {
    let best = Isa::ALL.into_iter().rfind(|&isa| has(isa)).unwrap_or(Isa::Plain);
    match asked.unwrap_or(best) {
        isa if has(isa) => Ok(isa),
        isa => Err(format!("this CPU has no {isa}; the best that it has is {best}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_instruction_set_is_refused_with_what_there_is() {
        for best in Isa::ALL {
            let choose = |asked| choose_isa(asked, |isa| isa <= best);
            assert_eq!(choose(None), Ok(best));
            for isa in Isa::ALL {
                let refused = || format!("this CPU has no {isa}; the best that it has is {best}");
                assert_eq!(choose(Some(isa)), if isa <= best { Ok(isa) } else { Err(refused()) });
            }
        }
    }
}
