//! Cuts a model for its ranks.

use super::shape;
use crate::WeightsError;
use crate::checkpoint::Checkpoint;
use crate::files::{Files, Located, io_error};
use crate::layout::{self, MANIFEST};
use crate::manifest::{Crc32, Manifest, OtherFile, RankFile};
use crate::reader::runs;
use crc32fast::Hasher;
use model::{Partition, ShardTensor};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The data of a rank's file begins at a multiple of this, as its header is filled up with spaces.
const ALIGNMENT: usize = 64;

/// Where the files of a cut model go.
pub trait CutTarget {
    /// A new file, of `bytes` bytes, which are written from its begin to its end. Several are written at once.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn CutFile>>;
}

/// A file of a cut model that is being written.
pub trait CutFile: Write + Send {
    /// All has been written.
    ///
    /// # Errors
    ///
    /// If not all of it has arrived.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A model that is to be cut, and the sizes of what will come of it.
pub struct Cutting<'a> {
    dir: PathBuf,
    checkpoint: &'a Checkpoint,
    files: &'a Files,
    ranks: Vec<RankPlan>,
    others: Vec<(String, u64)>,
}

/// What goes into a rank's file.
struct RankPlan {
    name: String,
    header: Vec<u8>,
    bytes: u64,
    tensors: BTreeMap<String, ShardTensor>,
}

impl<'a> Cutting<'a> {
    /// Plans to cut the model of the folder `dir`, which `checkpoint` is of, for `world` ranks.
    ///
    /// # Errors
    ///
    /// If it is cut already, or its folder cannot be listed.
    pub fn new(dir: &Path, checkpoint: &'a Checkpoint, world: usize) -> Result<Self, WeightsError> {
        let files = checkpoint.whole().ok_or_else(|| WeightsError::CutAlready { dir: dir.to_owned() })?;
        let ranks = (0..world).map(|rank| RankPlan::new(checkpoint, files, rank, world)).collect();
        Ok(Self { dir: dir.to_owned(), checkpoint, files, ranks, others: others(dir)? })
    }

    /// Bytes of the ranks' files and of the others, but for the manifest.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranks.iter().map(|rank| rank.bytes).chain(self.others.iter().map(|(_, bytes)| *bytes)).sum()
    }

    /// Writes all files, the manifest last. `progress` is told how many of [`bytes`](Self::bytes) have been written.
    ///
    /// # Errors
    ///
    /// The file that cannot be read or written.
    pub fn write(&self, target: &mut dyn CutTarget, progress: &mut dyn FnMut(u64)) -> Result<Manifest, WeightsError> {
        let (mut done, mut fingerprint) = (0, Sha256::new());
        let mut others = Vec::new();
        for (name, _) in &self.others {
            let path = self.dir.join(name);
            let bytes = std::fs::read(&path).map_err(io_error(&path))?;
            write_whole(target, name, &bytes)?;
            if name == layout::CONFIG {
                fingerprint.update(&bytes);
            }
            done += bytes.len() as u64;
            progress(done);
            others.push(OtherFile {
                name: name.clone(),
                bytes: bytes.len() as u64,
                crc32: Crc32(crc32fast::hash(&bytes)),
            });
        }
        let mut outputs = self.ranks.iter().map(|rank| Output::new(target, rank)).collect::<Result<Vec<_>, _>>()?;
        for spec in model::tensors(self.checkpoint.config()) {
            let name = spec.id.to_string();
            let located = &self.files.tensors[self.checkpoint.stored_name(spec.id)];
            let crc32 = self.write_tensor(&name, located, &mut outputs)?;
            fingerprint.update(format!("\n{name} {} {:?} {crc32}", located.stored.dtype, spec.shape));
            progress(done + outputs.iter().map(|output| output.written).sum::<u64>());
        }
        let ranks = outputs.into_iter().map(Output::finish).collect::<Result<_, _>>()?;
        let fingerprint = fingerprint.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let manifest = Manifest::new(fingerprint, self.checkpoint.config().tied, ranks, others);
        write_whole(target, MANIFEST, &manifest.to_json())?;
        Ok(manifest)
    }

    /// Writes each rank's part of a tensor, all at once. Returns the CRC-32 of the whole.
    fn write_tensor(&self, name: &str, located: &Located, outputs: &mut [Output<'_>]) -> Result<Crc32, WeightsError> {
        let bytes = self.files.bytes(located);
        let element_bytes = located.stored.element_bytes();
        let crc32 = std::thread::scope(|scope| {
            let writers: Vec<_> = outputs
                .iter_mut()
                .filter_map(|output| Some((output.plan.tensors.get(name)?, output)))
                .map(|(part, output)| scope.spawn(move || output.write(name, part, bytes, element_bytes)))
                .collect();
            let crc32 = Crc32(crc32fast::hash(bytes));
            let mut written = writers.into_iter().map(|writer| writer.join().expect("a writer does not panic"));
            written.try_for_each(|result| result).map(|()| crc32)
        });
        self.files.file(located).release(&located.stored.place);
        crc32
    }
}

/// The plain files of a folder but for those of weights, with their lengths, by name.
fn others(dir: &Path) -> Result<Vec<(String, u64)>, WeightsError> {
    let mut others = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error(dir))? {
        let entry = entry.map_err(io_error(dir))?;
        // A link counts as what it leads to: the hub's cache is made of them.
        let path = entry.path();
        let metadata = std::fs::metadata(&path).map_err(io_error(&path))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if metadata.is_file() && !name.starts_with('.') && !layout::is_of_weights(&name) {
            others.push((name, metadata.len()));
        }
    }
    others.sort_unstable();
    Ok(others)
}

fn write_whole(target: &mut dyn CutTarget, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
    let written = target.create(name, bytes.len() as u64).and_then(|mut file| {
        file.write_all(bytes)?;
        file.finish()
    });
    written.map_err(io_error(Path::new(name)))
}

impl RankPlan {
    fn new(checkpoint: &Checkpoint, files: &Files, rank: usize, world: usize) -> Self {
        let shard = model::shard(checkpoint.config(), &Partition::new(checkpoint.config(), rank, world));
        let (mut header, mut offset) = (Map::new(), 0);
        let about = json!({ "format": "pt", "rank": rank.to_string(), "tensor_parallel": world.to_string() });
        header.insert("__metadata__".to_owned(), about);
        for tensor in &shard {
            let stored = &files.tensors[checkpoint.stored_name(tensor.id)].stored;
            let end = offset + tensor.local_elements() * stored.element_bytes();
            let entry =
                json!({ "dtype": stored.dtype.to_string(), "shape": shape(tensor), "data_offsets": [offset, end] });
            header.insert(tensor.id.to_string(), entry);
            offset = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        let length = (size_of::<u64>() + text.len()).next_multiple_of(ALIGNMENT) - size_of::<u64>();
        text.resize(length, b' ');
        let header = [&(length as u64).to_le_bytes()[..], &text].concat();
        let bytes = (header.len() + offset) as u64;
        let tensors = shard.into_iter().map(|tensor| (tensor.id.to_string(), tensor)).collect();
        Self { name: format!("rank-{rank}-of-{world}.safetensors"), header, bytes, tensors }
    }
}

/// A rank's file, as it is written.
struct Output<'a> {
    plan: &'a RankPlan,
    file: Box<dyn CutFile>,
    written: u64,
    whole: Hasher,
    tensors: BTreeMap<String, Crc32>,
}

impl<'a> Output<'a> {
    fn new(target: &mut dyn CutTarget, plan: &'a RankPlan) -> Result<Self, WeightsError> {
        let created = target.create(&plan.name, plan.bytes).and_then(|mut file| {
            file.write_all(&plan.header)?;
            Ok(file)
        });
        let file = created.map_err(io_error(Path::new(&plan.name)))?;
        let mut whole = Hasher::new();
        whole.update(&plan.header);
        Ok(Self { plan, file, written: plan.header.len() as u64, whole, tensors: BTreeMap::new() })
    }

    /// Writes the part of a tensor that is stored in `bytes`.
    fn write(
        &mut self,
        name: &str,
        part: &ShardTensor,
        bytes: &[u8],
        element_bytes: usize,
    ) -> Result<(), WeightsError> {
        let mut crc32 = Hasher::new();
        for run in runs(part, 0..part.local_elements()) {
            let run = &bytes[run.start * element_bytes..run.end * element_bytes];
            crc32.update(run);
            self.file.write_all(run).map_err(io_error(Path::new(&self.plan.name)))?;
            self.written += run.len() as u64;
        }
        self.whole.combine(&crc32);
        self.tensors.insert(name.to_owned(), Crc32(crc32.finalize()));
        Ok(())
    }

    fn finish(self) -> Result<RankFile, WeightsError> {
        let Self { plan, file, written, whole, tensors } = self;
        debug_assert_eq!(written, plan.bytes, "{}", plan.name);
        file.finish().map_err(io_error(Path::new(&plan.name)))?;
        let file = OtherFile { name: plan.name.clone(), bytes: plan.bytes, crc32: Crc32(whole.finalize()) };
        Ok(RankFile { file, tensors })
    }
}
