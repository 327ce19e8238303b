//! A model directory whose config and tensors fit together.

use crate::cut::Cut;
use crate::files::{Files, Located};
use crate::layout::{self, CONFIG, INDEX, Layout};
use crate::reader::StoredPart;
use crate::{Note, ShardReader, WeightsError, note};
use model::{FalconConfig, NamesError, Partition, ShardTensor, TensorId, TensorNames};
use safetensors::Dtype;
use std::path::Path;

/// Reads `config.json` of the model directory `dir`, and nothing else: [`Checkpoint::config`] is true of the tensors
/// beside it.
///
/// # Errors
///
/// If the file cannot be read, or is not the config of a Falcon model.
pub fn read_config(dir: &Path) -> Result<FalconConfig, WeightsError> {
    parse_config(dir).map(|(config, _)| config)
}

fn parse_config(dir: &Path) -> Result<(FalconConfig, Vec<u8>), WeightsError> {
    let path = dir.join(CONFIG);
    let json = layout::read(&path)?;
    let config = FalconConfig::from_json(&json).map_err(|reason| WeightsError::Config { path, reason })?;
    Ok((config, json))
}

/// A model directory: its config, and its safetensors files mapped into memory. Every tensor of the model is there, in its
/// shape and in a type that is read, and nothing else but what is computed.
pub struct Checkpoint {
    config: FalconConfig,
    names: TensorNames,
    weights: Weights,
    notes: Vec<Note>,
}

/// How a checkpoint stores its tensors.
enum Weights {
    /// Each whole.
    Whole(Files),
    /// Each rank's part of them in a file of its own.
    Cut(Cut),
}

impl Weights {
    fn files(&self) -> &[Files] {
        match self {
            Self::Whole(files) => std::slice::from_ref(files),
            Self::Cut(cut) => &cut.ranks,
        }
    }

    /// A tensor, or a part of it.
    fn some(&self, name: &str) -> &Located {
        self.files().iter().find_map(|files| files.tensors.get(name)).expect("every tensor of the model is stored")
    }
}

/// A checkpoint of which no weight was read yet. If the config ties the output projection to the embedding table and both are
/// stored, it is not known whether they are equal.
#[derive(Debug)]
pub struct Unresolved(Checkpoint);

impl Unresolved {
    /// The model as `config.json` has it. If it is tied, [`resolve`](Self::resolve) may find that it is not.
    #[must_use]
    pub fn config(&self) -> &FalconConfig {
        &self.0.config
    }

    /// As [`Checkpoint::tensor_parallel`].
    #[must_use]
    pub fn tensor_parallel(&self) -> Option<usize> {
        self.0.tensor_parallel()
    }

    /// As [`Checkpoint::check_degree`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_degree(&self, world: usize) -> Result<(), WeightsError> {
        self.0.check_degree(world)
    }

    /// The notes that need no weight.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.0.notes
    }

    /// As [`Checkpoint::in_huge_pages`].
    #[must_use]
    pub fn in_huge_pages(&self) -> bool {
        self.0.in_huge_pages()
    }

    /// Compares an output projection with the embedding table that it is tied to, if both are stored, which reads them: 2 ×
    /// vocabulary × hidden size elements. If they differ, the config is changed to one that is not tied, as transformers 5
    /// does.
    #[must_use]
    pub fn resolve(self) -> Checkpoint {
        let Self(mut checkpoint) = self;
        if let (Weights::Whole(files), Some(head)) = (&checkpoint.weights, checkpoint.names.stored_head()) {
            let table = checkpoint.names.name(TensorId::EMBEDDINGS);
            if !files.holds_equal(table, head) {
                checkpoint.notes.push(Note::HeadDiffers { head: head.to_owned(), table: table.to_owned() });
                checkpoint.untie();
            }
        }
        checkpoint
    }
}

impl Checkpoint {
    /// [`open_unresolved`](Self::open_unresolved) and [`resolve`](Unresolved::resolve) in one.
    ///
    /// # Errors
    ///
    /// As [`open_unresolved`](Self::open_unresolved).
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        Self::open_unresolved(dir).map(Unresolved::resolve)
    }

    /// Opens `model.safetensors` in `dir`, or else the files that `model.safetensors.index.json` names, and holds their
    /// headers against `config.json`. No weight is read.
    ///
    /// # Errors
    ///
    /// [`WeightsError`], which names the file, and the tensor where there is one. The same folder always gives the same.
    pub fn open_unresolved(dir: &Path) -> Result<Unresolved, WeightsError> {
        Self::open_headers(dir).map(Unresolved)
    }

    /// As [`open`](Self::open), where it is known already whether embedding table and output projection are tied: nothing is
    /// compared. For the ranks of a model that was opened before they were started.
    ///
    /// # Errors
    ///
    /// As [`open_unresolved`](Self::open_unresolved).
    pub fn open_resolved(dir: &Path, tied: bool) -> Result<Self, WeightsError> {
        let mut checkpoint = Self::open_headers(dir)?;
        if !tied {
            checkpoint.untie();
        }
        Ok(checkpoint)
    }

    fn open_headers(dir: &Path) -> Result<Self, WeightsError> {
        // What else lies there says more than that a file is missing or has surprising fields.
        let layout = layout::find(dir);
        if let Err(error @ (WeightsError::AdapterAlone(_) | WeightsError::Gguf { .. })) = layout {
            return Err(error);
        }
        let (mut config, json) = parse_config(dir)?;
        let weights = match layout? {
            Layout::Single(path) => Weights::Whole(Files::single(dir, path)?),
            Layout::Indexed(path) => Weights::Whole(Files::indexed(dir, &path)?),
            Layout::Cut(path) => Weights::Cut(Cut::open(dir, path, &mut config)?),
        };
        let quantization = FalconConfig::quantization_method(&json);
        for files in weights.files() {
            check_types(files, quantization.as_deref())?;
        }
        let names = match &weights {
            Weights::Whole(files) => names_of(dir, &config, files)?,
            Weights::Cut(_) => TensorNames::of(&config),
        };
        let dtype = |id| weights.some(names.name(id)).stored.dtype;
        let notes = note::of(&config, &json, dtype, &names, quantization);
        Ok(Self { config, names, weights, notes })
    }

    /// The files, if each tensor is stored whole.
    pub(crate) fn whole(&self) -> Option<&Files> {
        match &self.weights {
            Weights::Whole(files) => Some(files),
            Weights::Cut(_) => None,
        }
    }

    /// The name by which a tensor is stored.
    pub(crate) fn stored_name(&self, id: TensorId) -> &str {
        self.names.name(id)
    }

    fn untie(&mut self) {
        self.config.tied = false;
        self.names.untie();
    }

    /// The model, as its tensors are.
    #[must_use]
    pub fn config(&self) -> &FalconConfig {
        &self.config
    }

    /// What its owner should know.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Whether every file is small, or mostly in huge pages of the page cache: then weights can be read where they are mapped, at
    /// full speed.
    #[must_use]
    pub fn in_huge_pages(&self) -> bool {
        self.weights.files().iter().all(Files::in_huge_pages)
    }

    /// For how many ranks the weights are cut, in files of their own; `None` if they are stored whole.
    #[must_use]
    pub fn tensor_parallel(&self) -> Option<usize> {
        match &self.weights {
            Weights::Whole(_) => None,
            Weights::Cut(cut) => Some(cut.ranks.len()),
        }
    }

    /// Whether `world` ranks can load the weights: any number, unless they are cut.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Degree`]: they are cut for another number.
    pub fn check_degree(&self, world: usize) -> Result<(), WeightsError> {
        match &self.weights {
            Weights::Cut(cut) if cut.ranks.len() != world => {
                Err(WeightsError::Degree { dir: cut.dir.clone(), cut: cut.ranks.len(), asked: world })
            }
            _ => Ok(()),
        }
    }

    /// A reader of the tensors that `partition` holds.
    ///
    /// # Errors
    ///
    /// As [`check_degree`](Self::check_degree).
    pub fn shard(&self, partition: &Partition) -> Result<ShardReader<'_>, WeightsError> {
        self.check_degree(partition.world)?;
        let tensors = model::shard(&self.config, partition);
        Ok(match &self.weights {
            Weights::Whole(files) => ShardReader::new(files, tensors, |tensor| StoredPart {
                name: self.names.name(tensor.id),
                part: tensor.clone(),
                crc32: None,
            }),
            Weights::Cut(cut) => {
                let stored = |tensor: &ShardTensor| cut.stored(partition.rank, tensor, self.names.name(tensor.id));
                ShardReader::new(&cut.ranks[partition.rank], tensors, stored)
            }
        })
    }
}

/// Under which names `files` store the model's tensors, each whole.
fn names_of(dir: &Path, config: &FalconConfig, files: &Files) -> Result<TensorNames, WeightsError> {
    let lacking = files.lacking.iter().find(|(tensor, _)| !TensorNames::may_be_absent(config, tensor));
    if let Some((tensor, file)) = lacking.cloned() {
        return Err(WeightsError::IndexedTensorMissing { path: dir.join(INDEX), tensor, file });
    }
    let stored = files.tensors.iter().map(|(name, located)| (&**name, &*located.stored.shape));
    TensorNames::find(config, stored).map_err(|reason| {
        let path = match &reason {
            NamesError::Unknown { name, .. } | NamesError::Shape { name, .. } => files.path(name).to_owned(),
            _ => dir.to_owned(),
        };
        WeightsError::Names { path, reason }
    })
}

/// Refuses weights that are quantized, and other types that are not read, by the first tensor in the order of names.
fn check_types(files: &Files, quantization: Option<&str>) -> Result<(), WeightsError> {
    for (name, located) in &files.tensors {
        let path = || files.path(name).to_owned();
        let tensor = || name.clone();
        if name.contains(".lora_") || name.contains(".base_layer.") {
            return Err(WeightsError::AdapterInside { path: path(), tensor: tensor() });
        }
        let found = located.stored.dtype;
        if matches!(found, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
            continue;
        }
        let method = quantization.or_else(|| quantized_as(name, found));
        return Err(match method {
            Some(method) => {
                WeightsError::Quantized { path: path(), tensor: tensor(), found, method: method.to_owned() }
            }
            None => WeightsError::Dtype { path: path(), tensor: tensor(), found },
        });
    }
    Ok(())
}

/// How a tensor was quantized, by its name and type, where the config does not say.
fn quantized_as(name: &str, dtype: Dtype) -> Option<&'static str> {
    match (name.rsplit('.').next()?, dtype) {
        ("qweight" | "qzeros" | "g_idx", _) => Some("GPTQ or AWQ"),
        (_, Dtype::F8_E4M3 | Dtype::F8_E5M2) => Some("FP8"),
        ("weight" | "weight_format" | "SCB" | "absmax" | "quant_map", Dtype::I8 | Dtype::U8) => Some("bitsandbytes"),
        _ => None,
    }
}

impl Files {
    /// Whether two tensors of the same shape have the same values, as they are read to bf16.
    fn holds_equal(&self, first: &str, second: &str) -> bool {
        let (first, second): (&Located, &Located) = (&self.tensors[first], &self.tensors[second]);
        if first.stored.dtype == second.stored.dtype {
            return self.bytes(first) == self.bytes(second);
        }
        crate::reader::bf16s(first.stored.dtype, self.bytes(first))
            .eq(crate::reader::bf16s(second.stored.dtype, self.bytes(second)))
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("config", &self.config).field("notes", &self.notes).finish_non_exhaustive()
    }
}
