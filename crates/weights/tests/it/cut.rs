//! Models that are cut for their ranks.

use crate::samples::{self, CONFIG, Tensors, directory, safetensors, seeded};
use half::bf16;
use model::{Partition, TensorId};
use safetensors::{Dtype, SafeTensors};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use tempfile::TempDir;
use weights::{Checkpoint, CutFile, CutFolder, CutTarget, Cutting, Manifest, WeightsError};

const SINGLE: &str = "model.safetensors";
const HEAD: &str = "lm_head.weight";

fn random(dtype: Dtype) -> Tensors {
    samples::random_tensors(dtype, &mut seeded())
}

/// A model of these tensors, with a tokenizer and files of other formats beside it.
fn model(tensors: &Tensors) -> TempDir {
    directory(&[
        (SINGLE, safetensors(tensors)),
        ("tokenizer.json", b"{}".to_vec()),
        ("pytorch_model.bin", b"x".to_vec()),
        (".hidden", b"x".to_vec()),
    ])
}

fn cut(dir: &Path, world: usize) -> TempDir {
    let out = tempfile::tempdir().unwrap();
    let (checkpoint, mut folder) = (Checkpoint::open(dir).unwrap(), CutFolder::new(out.path()).unwrap());
    let cutting = Cutting::new(dir, &checkpoint, world).unwrap();
    let mut told = Vec::new();
    cutting.write(&mut folder, &mut |done| told.push(done)).unwrap();
    folder.finish().unwrap();
    assert!(told.is_sorted() && told.last() == Some(&cutting.bytes()), "{told:?} of {}", cutting.bytes());
    let files = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap());
    let bytes = files.filter(|file| file.file_name() != "shards.json").map(|file| file.metadata().unwrap().len());
    assert_eq!(bytes.sum::<u64>(), cutting.bytes());
    out
}

fn manifest(dir: &Path) -> Manifest {
    Manifest::read(dir).unwrap().expect("it is cut")
}

#[test]
fn every_rank_reads_what_it_reads_of_the_whole_model() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let whole = model(&random(dtype));
        let whole_checkpoint = Checkpoint::open(whole.path()).unwrap();
        for world in [1, 2, 3, 8] {
            let dir = cut(whole.path(), world);
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_eq!((checkpoint.tensor_parallel(), checkpoint.notes()), (Some(world), whole_checkpoint.notes()));
            assert_eq!(checkpoint.config(), whole_checkpoint.config());
            for rank in 0..world {
                let partition = Partition::new(checkpoint.config(), rank, world);
                let expected = whole_checkpoint.shard(&partition).unwrap();
                let reader = checkpoint.shard(&partition).unwrap();
                assert_eq!(reader.tensors(), expected.tensors());
                for tensor in reader.tensors() {
                    let elements = tensor.local_elements();
                    let read = |reader: &weights::ShardReader<'_>| {
                        let (mut out, mut wide) = (vec![bf16::ZERO; elements], vec![0.0; elements]);
                        reader.read(tensor, 0..elements, &mut out);
                        reader.read_f32(tensor, &mut wide);
                        (
                            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                            wide.iter().map(|x| x.to_bits()).collect(),
                        )
                    };
                    let same: ((_, Vec<u32>), (_, _)) = (read(&reader), read(&expected));
                    assert_eq!(same.0, same.1, "{dtype}, rank {rank} of {world}, {}", tensor.id);
                }
                reader.verify().unwrap();
                let crcs = |reader: &weights::ShardReader<'_>| -> Vec<u32> {
                    reader.checksums().iter().map(|checksum| checksum.crc32).collect()
                };
                assert_eq!(crcs(&reader), crcs(&expected));
            }
        }
    }
}

#[test]
fn a_file_holds_the_tensors_of_its_rank_in_the_order_of_a_load() {
    let whole = model(&random(Dtype::BF16));
    let dir = cut(whole.path(), 3);
    let names: Vec<_> = manifest(dir.path()).files.into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["config.json", "tokenizer.json"], "no weights of other formats, nothing hidden");
    for rank in 0..3 {
        let bytes = fs::read(dir.path().join(format!("rank-{rank}-of-3.safetensors"))).unwrap();
        let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!((header_bytes + 8) % 64, 0);
        let mut end = 0;
        for tensor in model::shard(&samples::config(), &Partition::new(&samples::config(), rank, 3)) {
            let (start, next) = metadata.info(&tensor.id.to_string()).unwrap().data_offsets;
            assert_eq!(start, end, "{}", tensor.id);
            end = next;
        }
        assert_eq!(header_bytes + 8 + end, bytes.len(), "and nothing else");
        assert_eq!(manifest(dir.path()).ranks[rank].file.crc32.0, crc32fast::hash(&bytes));
    }
}

#[test]
fn a_head_that_is_stored_and_differs_is_cut_too() {
    let mut tensors = random(Dtype::BF16);
    let table = tensors[&TensorId::EMBEDDINGS.to_string()].clone();
    tensors.insert(HEAD.to_owned(), table);
    let tied = cut(model(&tensors).path(), 2);
    let checkpoint = Checkpoint::open(tied.path()).unwrap();
    assert!(checkpoint.config().tied && !manifest(tied.path()).ranks[0].tensors.contains_key(HEAD));

    tensors.get_mut(HEAD).unwrap().2[3] ^= 1;
    let untied = cut(model(&tensors).path(), 2);
    let checkpoint = Checkpoint::open_resolved(untied.path(), false).unwrap();
    assert!(!checkpoint.config().tied);
    let reader = checkpoint.shard(&Partition::new(checkpoint.config(), 0, 2)).unwrap();
    let head = reader.tensors().iter().find(|tensor| tensor.id == TensorId::LM_HEAD).unwrap();
    let mut out = vec![bf16::ZERO; head.local_elements()];
    reader.read(head, 0..out.len(), &mut out);
    assert_eq!(bytemuck::cast_slice::<_, u8>(&out), &tensors[HEAD].2[..2 * out.len()]);
}

#[test]
fn the_fingerprint_is_of_the_model_whatever_the_number_of_ranks() {
    let mut tensors = random(Dtype::BF16);
    let of = |tensors: &Tensors, world| manifest(cut(model(tensors).path(), world).path()).fingerprint;
    let first = of(&tensors, 1);
    assert_eq!((first.len(), &first), (64, &of(&tensors, 3)));
    tensors.get_mut("transformer.ln_f.bias").unwrap().2[0] ^= 1;
    assert_ne!(of(&tensors, 3), first);
}

/// Opens `dir`; the text of the error must hold all `parts`.
fn expect_error(dir: &Path, parts: &[&str]) {
    let text = Checkpoint::open(dir).unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn what_is_missing_or_other_than_it_was_cut_is_named() {
    const RANK: &str = "rank-1-of-2.safetensors";
    let whole = model(&random(Dtype::BF16));
    let fresh = || cut(whole.path(), 2);

    let dir = fresh();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = checkpoint.shard(&Partition::new(checkpoint.config(), 0, 4)).err().unwrap().to_string();
    assert!(
        error.ends_with("these weights are cut for --tensor-parallel 2, not 4; ask for that, or cut the model again")
    );
    assert!(matches!(Cutting::new(dir.path(), &checkpoint, 2).err(), Some(WeightsError::CutAlready { .. })));

    fs::write(dir.path().join("tokenizer.json"), b"[]").unwrap();
    expect_error(dir.path(), &["tokenizer.json: not the file", "expected a CRC-32 of", "found"]);
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    expect_error(dir.path(), &["tokenizer.json: not the file", "No such file"]);

    let dir = fresh();
    let path = dir.path().join(RANK);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let (all, found) = (format!("expected {} bytes", bytes.len()), format!("found {} bytes", bytes.len() - 1));
    expect_error(dir.path(), &[RANK, &all, &found]);
    fs::remove_file(&path).unwrap();
    expect_error(dir.path(), &[RANK, &all, "No such file"]);

    // Only the first rank has the biases of sums.
    let dir = fresh();
    let [first, second] = [0, 1].map(|rank| dir.path().join(format!("rank-{rank}-of-2.safetensors")));
    fs::copy(&first, &second).unwrap();
    let json = fs::read_to_string(dir.path().join("shards.json")).unwrap();
    let [long, short] = [0, 1].map(|rank| manifest(dir.path()).ranks[rank].file.bytes);
    let json = json.replace(&format!("\"bytes\": {short}"), &format!("\"bytes\": {long}"));
    fs::write(dir.path().join("shards.json"), json).unwrap();
    expect_error(dir.path(), &[RANK, "unknown tensor", "bias"]);

    let dir = fresh();
    fs::write(dir.path().join("shards.json"), b"{}").unwrap();
    expect_error(dir.path(), &["shards.json: not a manifest", "missing field `format`"]);
    fs::remove_file(dir.path().join("shards.json")).unwrap();
    expect_error(dir.path(), &["no shards.json, but rank-0-of-2.safetensors"]);
}

#[test]
fn a_byte_that_is_damaged_is_found_when_its_tensor_is_read() {
    let dir = cut(model(&random(Dtype::BF16)).path(), 2);
    let path = dir.path().join("rank-1-of-2.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let data = 8 + SafeTensors::read_metadata(&bytes).unwrap().0;
    let name = "transformer.h.1.mlp.dense_4h_to_h.weight";
    let (start, _) = SafeTensors::read_metadata(&bytes).unwrap().1.info(name).unwrap().data_offsets;
    bytes[data + start + 5] ^= 1;
    fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for rank in 0..2 {
        let reader = checkpoint.shard(&Partition::new(checkpoint.config(), rank, 2)).unwrap();
        for tensor in reader.tensors() {
            reader.read_f32(tensor, &mut vec![0.0; tensor.local_elements()]);
        }
        let error = reader.verify().err().map(|error| error.to_string());
        let expected = format!("{}: tensor `{name}` is damaged: its CRC-32 is ", path.display());
        assert_eq!(error.is_some_and(|error| error.starts_with(&expected)), rank == 1);
    }
}

/// A folder on a disk that is full after so many writes.
struct Full(CutFolder, usize);
struct FullFile(Box<dyn CutFile>, usize);

impl CutTarget for Full {
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn CutFile>> {
        Ok(Box::new(FullFile(self.0.create(name, bytes)?, self.1)))
    }
}

impl Write for FullFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 = self.1.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl CutFile for FullFile {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()
    }
}

#[test]
fn what_was_interrupted_is_no_model_and_is_done_again() {
    let whole = model(&random(Dtype::BF16));
    let checkpoint = Checkpoint::open(whole.path()).unwrap();
    let cutting = Cutting::new(whole.path(), &checkpoint, 2).unwrap();
    let out = tempfile::tempdir().unwrap();
    for writes in [0, 1, 20] {
        let mut full = Full(CutFolder::new(out.path()).unwrap(), writes);
        let error = cutting.write(&mut full, &mut |_| {}).unwrap_err();
        assert!(matches!(&error, WeightsError::Io { reason, .. } if reason.kind() == io::ErrorKind::StorageFull));
        fs::write(out.path().join("config.json"), CONFIG).unwrap();
        expect_error(out.path(), &["no checkpoint"]);
        fs::remove_file(out.path().join("config.json")).unwrap();
    }
    let mut folder = CutFolder::new(out.path()).unwrap();
    cutting.write(&mut folder, &mut |_| {}).unwrap();
    folder.finish().unwrap();
    Checkpoint::open(out.path()).unwrap();
    let left = fs::read_dir(out.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".unfinished"));
    assert_eq!(left.count(), 0);
    let error = CutFolder::new(out.path()).err().unwrap().to_string();
    assert!(error.contains("the folder holds a model already"), "{error}");
}
