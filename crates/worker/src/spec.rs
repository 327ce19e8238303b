//! What the coordinator asks a rank to be.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;
use wire::control::LoadRequest;

/// One rank's place, device and room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankSpec {
    /// Folder with `config.json` and the checkpoint.
    pub model_dir: PathBuf,
    /// Whether the output projection is the embedding table, whatever the checkpoint stores.
    pub tied: bool,
    /// Name of the backend.
    pub backend: String,
    /// This rank.
    pub rank: usize,
    /// The tensor-parallel degree.
    pub world: usize,
    /// Blocks of the KV cache.
    pub kv_blocks: usize,
    /// The most rows of one step.
    pub step_rows_max: usize,
    /// How long a rank waits for another before it gives up.
    pub collective_limit: Duration,
    /// How long a step is allowed at least.
    pub step_limit: Duration,
    /// Threads that compute; at least 1.
    pub threads: usize,
    /// Instruction set to use instead of the best one.
    pub isa: Option<String>,
}

/// A request to load that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("bad load request: `{field}` is {found}, expected {expected}")]
pub struct SpecError {
    field: &'static str,
    found: u32,
    expected: String,
}

impl TryFrom<LoadRequest> for RankSpec {
    type Error = SpecError;

    fn try_from(request: LoadRequest) -> Result<Self, SpecError> {
        let positive = |field, found: u32| match found {
            0 => Err(SpecError { field, found, expected: "at least 1".to_owned() }),
            _ => Ok(found as usize),
        };
        let world = positive("world", request.world)?;
        if request.rank >= request.world {
            let expected = format!("below {world}");
            return Err(SpecError { field: "rank", found: request.rank, expected });
        }
        Ok(Self {
            model_dir: PathBuf::from(OsString::from_vec(request.model_dir)),
            tied: request.tied,
            backend: request.backend,
            rank: request.rank as usize,
            world,
            kv_blocks: positive("kv_blocks", request.kv_blocks)?,
            step_rows_max: positive("step_rows_max", request.step_rows_max)?,
            collective_limit: Duration::from_millis(u64::from(request.collective_limit_ms)),
            step_limit: Duration::from_millis(u64::from(request.step_limit_ms)),
            threads: positive("threads", request.threads)?,
            isa: Some(request.isa).filter(|isa| !isa.is_empty()),
        })
    }
}
