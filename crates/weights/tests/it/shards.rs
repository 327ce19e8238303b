use crate::samples::{self, seeded};
use half::bf16;
use model::{FalconConfig, Partition, ShardTensor, TensorId, tensors};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;
use testkit::goldens::model_dir;
use weights::{Checkpoint, ShardReader, read_config};

/// Not a value of any tensor of the test models: a NaN.
const UNREAD: bf16 = bf16::from_bits(0x7fab);

#[test]
fn all_ranks_together_hold_the_original_bytes() {
    let mut rng = seeded();
    for model in ["tiny-falcon-7b", "tiny-falcon-40b", "tiny-falcon-180b", "tiny-falcon-rw", "tiny-falcon2-11b"] {
        let dir = model_dir(model);
        let config = read_config(&dir).unwrap();
        let original = original(&dir, &config);
        let files = Checkpoint::open(&dir).unwrap();
        for world in 1..=8 {
            let mut together: HashMap<TensorId, Vec<bf16>> =
                original.iter().map(|(&id, whole)| (id, vec![UNREAD; whole.len()])).collect();
            for rank in 0..world {
                let reader = files.shard(&Partition::new(&config, rank, world)).unwrap();
                for tensor in reader.tensors() {
                    assert_mapped(&reader, tensor);
                    let local = read_in_pieces(&reader, tensor, &mut rng);
                    scatter(tensor, &local, together.get_mut(&tensor.id).unwrap());
                    reader.release(tensor);
                }
                // Each tensor three times: twice mapped, once in pieces.
                assert_eq!(reader.progress().done(), 3 * reader.progress().total(), "{model} rank {rank} of {world}");
            }
            for (id, whole) in &original {
                assert!(bits(&together[id]).eq(bits(whole)), "{model} over {world}: {id}");
            }
        }
    }
}

/// All tensors of the model, as the `safetensors` crate reads them.
fn original(dir: &Path, config: &FalconConfig) -> HashMap<TensorId, Vec<bf16>> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let parsed: Vec<_> = files.iter().map(|bytes| SafeTensors::deserialize(bytes).unwrap()).collect();
    let find = |id: TensorId| {
        let view = parsed.iter().find_map(|file| file.tensor(&id.to_string()).ok()).unwrap();
        assert_eq!(view.dtype(), Dtype::BF16);
        view.data().chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]])).collect()
    };
    tensors(config).into_iter().map(|spec| (spec.id, find(spec.id))).collect()
}

fn read_in_pieces(reader: &ShardReader<'_>, tensor: &ShardTensor, rng: &mut fastrand::Rng) -> Vec<bf16> {
    let mut local = vec![UNREAD; tensor.local_elements()];
    let mut done = 0;
    while done < local.len() {
        let end = local.len().min(done + rng.usize(1..=local.len()));
        reader.read(tensor, done..end, &mut local[done..end]);
        done = end;
    }
    local
}

/// The file of a small model is used where it is mapped.
fn assert_mapped(reader: &ShardReader<'_>, tensor: &ShardTensor) {
    let done = reader.progress().done();
    let (whole, mut local) = (reader.mapped(tensor).unwrap(), vec![UNREAD; tensor.local_elements()]);
    reader.read(tensor, 0..local.len(), &mut local);
    whole.fetch(0..local.len()).unwrap();
    let mut rest = &*local;
    for row in tensor.rows.iter().cloned().flatten() {
        let start = row * tensor.columns_total;
        let elements = start + tensor.columns.start..start + tensor.columns.end;
        let row = rest.split_off(..elements.len()).unwrap();
        assert!(bits(&whole.elements()[elements]).eq(bits(row)), "{}: row {row:?}", tensor.id);
    }
    let bytes = 2 * size_of_val(&*local) as u64;
    assert_eq!(reader.progress().done() - done, bytes, "{}: read and fetched", tensor.id);
}

/// NaN is not equal to itself.
fn bits(elements: &[bf16]) -> impl Iterator<Item = u16> {
    elements.iter().map(|x| x.to_bits())
}

/// Puts each local element in its place in the whole tensor. What is there from another rank must be the same.
fn scatter(tensor: &ShardTensor, local: &[bf16], whole: &mut [bf16]) {
    let rows = tensor.rows.iter().cloned().flatten();
    let places = rows.flat_map(|row| tensor.columns.clone().map(move |column| row * tensor.columns_total + column));
    for (place, value) in places.zip(local) {
        let there = std::mem::replace(&mut whole[place], *value).to_bits();
        assert!(there == UNREAD.to_bits() || there == value.to_bits(), "{}: element {place}", tensor.id);
    }
}

#[test]
fn several_threads_read_at_once() {
    let dir = model_dir("tiny-falcon-40b");
    let config = read_config(&dir).unwrap();
    let files = Checkpoint::open(&dir).unwrap();
    let reader = files.shard(&Partition::new(&config, 1, 3)).unwrap();
    let alone: Vec<_> = reader.tensors().iter().map(|tensor| read_in_pieces(&reader, tensor, &mut seeded())).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (tensor, expected) in reader.tensors().iter().zip(&alone) {
                    reader.prefetch(tensor);
                    assert_eq!(&read_in_pieces(&reader, tensor, &mut seeded()), expected, "{}", tensor.id);
                    reader.release(tensor);
                }
            });
        }
    });
    assert_eq!(reader.progress().done(), 5 * reader.progress().total());
}

#[test]
fn progress_outlives_the_reader_and_counts_stored_bytes() {
    let (mut rng, config) = (seeded(), samples::config());
    for (dtype, element_bytes) in [(Dtype::BF16, 2), (Dtype::F16, 2), (Dtype::F32, 4)] {
        let tensors = samples::random_tensors(dtype, &mut rng);
        let dir = samples::directory(&[("model.safetensors", samples::safetensors(&tensors))]);
        let files = Checkpoint::open(dir.path()).unwrap();
        let partition = Partition::new(&config, 0, 3);
        let progress = {
            let reader = files.shard(&partition).unwrap();
            assert_eq!(reader.progress().done(), 0);
            let vector = &reader.tensors()[1];
            reader.read_f32(vector, &mut vec![0.0; vector.local_elements()]);
            assert_eq!(reader.mapped(vector).is_some(), dtype == Dtype::BF16, "only bf16 is used where it lies");
            reader.progress()
        };
        assert_eq!(progress.done(), config.hidden as u64 * element_bytes);
        assert_eq!(progress.total(), partition.weight_bytes(&config, 1) * element_bytes);
    }
}

#[test]
#[should_panic(expected = "length of the output")]
fn an_output_of_another_length_is_our_bug() {
    let dir = model_dir("tiny-falcon-7b");
    let config = read_config(&dir).unwrap();
    let files = Checkpoint::open(&dir).unwrap();
    let reader = files.shard(&Partition::new(&config, 0, 1)).unwrap();
    reader.read(&reader.tensors()[0], 0..7, &mut [UNREAD; 6]);
}
