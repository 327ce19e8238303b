//! A rank's shard into its backend.

use crate::RankSpec;
use backend::{Backend, BackendError, Leaver, MappedTensor, MappedWeight, WeightFormat};
use forward::{Capacity, Falcon, ModelRunner, StepError, WeightSource, rank_shapes};
use half::bf16;
use model::{Partition, ShardTensor};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use step::{SampleMask, StepPlan, StepResult};
use weights::{Checkpoint, Mapped, Progress, ShardReader, TensorChecksum, WeightsError};

/// How far a load has come; empty until the checkpoint's files have been opened.
pub type LoadProgress = OnceLock<Arc<Progress>>;

/// A rank that is ready to run.
pub struct Loaded {
    /// What runs its steps.
    pub runner: Box<dyn StepRunner>,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Bytes of its KV cache.
    pub kv_bytes: u64,
    /// Of every tensor that was read from a file.
    pub checksums: Vec<TensorChecksum>,
    /// What makes steps that wait for other ranks fail. `None`: the rank cannot leave the others and rejoin them.
    pub leaver: Option<Leaver>,
}

/// Runs steps on a device that it owns.
pub trait StepRunner {
    /// How many steps may be in flight at once.
    fn steps_in_flight_max(&self) -> usize;

    /// Begins a step; `masks` are those for which it waits.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing can be run after one.
    fn begin(&mut self, plan: StepPlan, masks: &[SampleMask]) -> Result<(), StepError>;

    /// The result of the oldest step in flight, once there is one.
    ///
    /// # Errors
    ///
    /// As [`StepRunner::begin`].
    fn poll(&mut self) -> Result<Option<StepResult>, StepError>;

    /// Leaves the other ranks, and drops all but its weights. It may be called again.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; nothing can be run after one.
    ///
    /// # Panics
    ///
    /// Where there is no [`Loaded::leaver`].
    fn leave(&mut self) -> Result<(), BackendError> {
        unreachable!("this rank cannot leave the others")
    }

    /// Meets the ranks again, after it has left, and can run steps then.
    ///
    /// # Errors
    ///
    /// [`BackendError`]. Where it is by other ranks, this one can leave, and try again.
    ///
    /// # Panics
    ///
    /// As [`StepRunner::leave`].
    fn rejoin(&mut self) -> Result<(), BackendError> {
        unreachable!("this rank cannot rejoin the others")
    }
}

impl<B: Backend> StepRunner for ModelRunner<B> {
    fn steps_in_flight_max(&self) -> usize {
        ModelRunner::steps_in_flight_max(self)
    }

    fn begin(&mut self, plan: StepPlan, masks: &[SampleMask]) -> Result<(), StepError> {
        ModelRunner::begin(self, plan, masks)
    }

    fn poll(&mut self) -> Result<Option<StepResult>, StepError> {
        ModelRunner::poll(self)
    }

    fn leave(&mut self) -> Result<(), BackendError> {
        ModelRunner::leave(self)
    }

    fn rejoin(&mut self) -> Result<(), BackendError> {
        ModelRunner::rejoin(self)
    }
}

/// Why a rank did not become ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum LoadError {
    /// The model's files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The device could not be opened as asked.
    #[error("backend {backend}: {message}")]
    Open { backend: String, message: String },
}

/// How far ahead of the load the system is asked to read: enough for any disk, little beside a shard.
const READ_AHEAD_ELEMENTS: usize = 32 << 20;

/// Reads the rank's shard of the model in `spec.model_dir` into `backend`.
///
/// # Errors
///
/// [`LoadError`].
pub fn load<B: Backend + 'static>(backend: B, spec: &RankSpec, progress: &LoadProgress) -> Result<Loaded, LoadError> {
    let checkpoint = Checkpoint::open_resolved(&spec.model_dir, spec.tied)?;
    let config = checkpoint.config();
    let partition = Partition::new(config, spec.rank, spec.world);
    let reader = checkpoint.shard(&partition)?;
    // A second load of the same rank does not happen; if it did, its progress would merely not be seen.
    let _ = progress.set(reader.progress());
    let capacity =
        Capacity { kv_blocks: spec.kv_blocks, rows_max: spec.step_rows_max, logits_rows_max: B::LOGITS_ROWS_MAX };
    let footprint = backend.footprint();
    let bytes = footprint.bytes(&rank_shapes(footprint, WeightFormat::default(), config, &partition, capacity));
    let (source, leaver) = (ShardSource(reader), backend.leaver());
    let falcon = Falcon::load(backend, config, &partition, capacity, &source)?;
    source.0.verify()?;
    let runner = Box::new(ModelRunner::new(falcon));
    let checksums = source.0.checksums();
    Ok(Loaded { runner, weight_bytes: bytes.weights, kv_bytes: bytes.kv_cache, checksums, leaver })
}

/// A rank's shard as `forward` wants to read it. `forward` asks for weights and `weights` has them; neither knows the other.
pub struct ShardSource<'a>(pub ShardReader<'a>);

/// A mapped tensor as a backend wants to see it; as with [`ShardSource`], neither side knows the other.
struct Tensor(Mapped);

impl MappedTensor for Tensor {
    fn elements(&self) -> &[bf16] {
        self.0.elements()
    }

    fn fetch(&self, elements: Range<usize>) -> Result<(), BackendError> {
        let error = |error: WeightsError| BackendError::Device { operation: "reading", message: error.to_string() };
        self.0.fetch(elements).map_err(error)
    }
}

impl WeightSource for ShardSource<'_> {
    fn read(&self, tensor: &ShardTensor, elements: Range<usize>, out: &mut [bf16]) {
        self.0.read(tensor, elements, out);
    }

    fn read_f32(&self, tensor: &ShardTensor, out: &mut [f32]) {
        self.0.read_f32(tensor, out);
    }

    fn mapped(&self, tensor: &ShardTensor) -> Option<MappedWeight> {
        let mapped = self.0.mapped(tensor)?;
        let ShardTensor { columns_total, rows, columns, .. } = mapped.part().clone();
        Some(MappedWeight { tensor: Arc::new(Tensor(mapped)), columns_total, rows, columns })
    }

    fn release(&self, tensor: &ShardTensor) {
        self.0.release(tensor);
        // Tensors are read in their order: the disk works on the next ones meanwhile.
        let mut behind = self.0.tensors().iter().skip_while(|other| other.id != tensor.id).skip(1);
        let mut elements = 0;
        while elements < READ_AHEAD_ELEMENTS
            && let Some(next) = behind.next()
        {
            self.0.prefetch(next);
            elements += next.local_elements();
        }
    }
}
