//! The model: whether its files are whole, and whether it fits.

use super::DoctorArgs;
use crate::units::{gb, grouped};
use backend_cpu::Isa;
use runtime::Machine;
use serde::Serialize;
use sizing::Fit;
use std::fmt;
use std::path::{Path, PathBuf};
use step::BLOCK_TOKENS;
use weights::{Checkpoint, Unresolved, WeightsError};

/// What was found of it.
pub(super) struct Found {
    pub(super) model: Model,
    /// Its folder, if there is one.
    pub(super) dir: Option<PathBuf>,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A model's folder.
#[derive(Debug, Default, Serialize)]
pub(super) struct Model {
    /// As it was named.
    folder: String,
    /// Whether it fits; `None` where that could not be told.
    fits: Option<bool>,
    /// What its fullest rank takes, if it fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    takes: Option<Takes>,
    /// The page cache has its files in huge pages, or they are small; `None` where they cannot be opened.
    files_in_huge_pages: Option<bool>,
}

/// What a rank takes.
#[derive(Debug, Serialize)]
struct Takes {
    kv_tokens: u64,
    step_tokens: u32,
    weight_bytes: u64,
    kv_bytes: u64,
    activation_bytes: u64,
    scratch_bytes: u64,
    reserve_bytes: u64,
    memory_bytes: u64,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(takes) = &self.takes else { return write!(f, "{}", self.folder) };
        let all = takes.weight_bytes + takes.kv_bytes + takes.activation_bytes + takes.scratch_bytes;
        write!(
            f,
            "{}: a rank takes {} of {} GB: {} weights, {} KV cache of {} tokens, {} for steps of up to {} tokens",
            self.folder,
            gb(all + takes.reserve_bytes),
            gb(takes.memory_bytes),
            gb(takes.weight_bytes),
            gb(takes.kv_bytes),
            grouped(takes.kv_tokens),
            gb(takes.activation_bytes + takes.scratch_bytes),
            grouped(takes.step_tokens.into())
        )
    }
}

/// Looks at a model's folder, and whether it fits over `ranks` ranks on a backend, if there is one.
pub(super) fn look(args: &DoctorArgs, model: &Path, backend: Option<&str>, ranks: usize) -> Found {
    let folder = model.display().to_string();
    let mut found = Found {
        model: Model { folder: folder.clone(), ..Model::default() },
        dir: None,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let dir = match args.hub.description(model) {
        Ok(dir) => dir,
        Err(error) => {
            found.problems.push(format!("{error:#}"));
            return found;
        }
    };
    found.dir = Some(dir.clone());
    let (config, checkpoint) = match Checkpoint::open_unresolved(&dir) {
        Ok(checkpoint) => (checkpoint.config().clone(), Some(checkpoint)),
        Err(error) => {
            found.problems.push(error.to_string());
            if dir != model {
                found.problems.push(format!("the weights are not here yet: `peregrine download {folder}` brings them"));
            }
            // Where the weights are yet to come, the config alone says what would fit.
            let has_none = matches!(error, WeightsError::NoCheckpoint { .. });
            match weights::read_config(&dir) {
                Ok(config) if has_none => (config, None),
                _ => return found,
            }
        }
    };
    let degree = checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.check_degree(ranks));
    found.problems.extend(degree.err().map(|error| error.to_string()));
    found.model.files_in_huge_pages = checkpoint.as_ref().map(Unresolved::in_huge_pages);
    let mut notes = checkpoint.as_ref().map(|checkpoint| checkpoint.notes().to_vec()).unwrap_or_default();
    let fitted = backend.map(|backend| {
        let machine = Machine::of(backend, None, None)?;
        let asked = args.sizes.asked(&config);
        match checkpoint {
            Some(checkpoint) => machine.fit_checkpoint(checkpoint, ranks, &asked).map(|(checkpoint, fit)| {
                notes = checkpoint.notes().to_vec();
                fit
            }),
            None => machine.fit(&config, ranks, &asked),
        }
    });
    found.warnings.extend(notes.iter().map(ToString::to_string));
    // With a matrix unit, weights are copied to memory of their own.
    if backend == Some("cpu") && found.model.files_in_huge_pages == Some(false) && Isa::detect() != Isa::Amx {
        let what = "the page cache does not have the model's files in huge pages: weights are copied into memory";
        found.warnings.push(format!("{what}, which takes longer to load, once for each start"));
    }
    found.model.fits = fitted.as_ref().map(Result::is_ok);
    match fitted {
        Some(Ok(fit)) => found.model.takes = Some(Takes::of(&fit)),
        Some(Err(error)) => found.problems.push(format!("--model {folder}: {error}")),
        None => {}
    }
    found
}

impl Takes {
    fn of(fit: &Fit) -> Self {
        Self {
            kv_tokens: u64::from(fit.kv_blocks) * BLOCK_TOKENS as u64,
            step_tokens: fit.step_rows,
            weight_bytes: fit.bytes.weights,
            kv_bytes: fit.bytes.kv_cache,
            activation_bytes: fit.bytes.activations,
            scratch_bytes: fit.bytes.scratch,
            reserve_bytes: fit.reserve_bytes,
            memory_bytes: fit.memory_bytes,
        }
    }
}
