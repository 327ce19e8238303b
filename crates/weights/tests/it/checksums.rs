//! Checksums of what a rank has read.

use crate::samples::{self, seeded};
use half::bf16;
use model::{Partition, ShardTensor};
use safetensors::Dtype;
use std::fs;
use weights::{Checkpoint, ShardReader, TensorChecksum};

/// The bytes of the rank's part of a tensor, by the shard table alone.
fn part(tensor: &ShardTensor, whole: &[u8], element_bytes: usize) -> Vec<u8> {
    let rows = tensor.rows.iter().cloned().flatten();
    let at = rows.map(|row| row * tensor.columns_total + tensor.columns.start);
    at.flat_map(|first| &whole[first * element_bytes..][..tensor.columns.len() * element_bytes]).copied().collect()
}

/// Ranges that cover `0..len`, in a random order.
fn pieces(len: usize, rng: &mut fastrand::Rng) -> Vec<std::ops::Range<usize>> {
    let mut cuts: Vec<usize> = (0..rng.usize(..6)).map(|_| rng.usize(..=len)).chain([0, len]).collect();
    cuts.sort_unstable();
    let mut pieces: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
    rng.shuffle(&mut pieces);
    pieces
}

/// Each way in which all of a tensor can be read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Copied,
    Widened,
    Mapped,
}

fn read(reader: &ShardReader<'_>, way: Way, rng: &mut fastrand::Rng) {
    for tensor in reader.tensors() {
        let len = tensor.local_elements();
        match way {
            Way::Copied => pieces(len, rng).into_iter().for_each(|piece| {
                let mut out = vec![bf16::ZERO; piece.len()];
                reader.read(tensor, piece, &mut out);
            }),
            Way::Widened => reader.read_f32(tensor, &mut vec![0.0; len]),
            Way::Mapped => {
                let mapped = reader.mapped(tensor).expect("bf16 of a small file");
                pieces(len, rng).into_iter().for_each(|piece| mapped.fetch(piece).expect("it is there"));
            }
        }
    }
}

#[test]
fn a_checksum_is_that_of_the_ranks_part_however_it_is_read() {
    let (mut rng, config) = (seeded(), samples::config());
    for (dtype, ways) in [
        (Dtype::BF16, &[Way::Copied, Way::Widened, Way::Mapped][..]),
        (Dtype::F16, &[Way::Copied, Way::Widened]),
        (Dtype::F32, &[Way::Copied, Way::Widened]),
    ] {
        let tensors = samples::random_tensors(dtype, &mut rng);
        let dir = samples::directory(&[("model.safetensors", samples::safetensors(&tensors))]);
        let files = Checkpoint::open(dir.path()).expect("a model");
        for (rank, world) in [(0, 1), (0, 3), (2, 3), (7, 8)] {
            let partition = Partition::new(&config, rank, world);
            for &way in ways {
                let reader = files.shard(&partition).unwrap();
                read(&reader, way, &mut rng);
                let expected = reader.tensors().iter().map(|tensor| {
                    let name = tensor.id.to_string();
                    let bytes = part(tensor, &tensors[&name].2, dtype.bitsize() / 8);
                    let file = dir.path().join("model.safetensors").display().to_string();
                    TensorChecksum { file, tensor: name, crc32: crc32fast::hash(&bytes) }
                });
                assert_eq!(reader.checksums(), expected.collect::<Vec<_>>(), "{dtype} {way:?}, rank {rank} of {world}");
            }
        }
    }
}

#[test]
fn a_byte_that_changes_changes_the_checksum_of_its_tensor_on_the_ranks_that_hold_it() {
    let (mut rng, config) = (seeded(), samples::config());
    let mut tensors = samples::random_tensors(Dtype::BF16, &mut rng);
    let dir = samples::directory(&[("model.safetensors", samples::safetensors(&tensors))]);
    let path = dir.path().join("model.safetensors");
    let load = |rank, rng: &mut fastrand::Rng| {
        let files = Checkpoint::open(dir.path()).expect("a model");
        let reader = files.shard(&Partition::new(&config, rank, 2)).unwrap();
        read(&reader, Way::Mapped, rng);
        reader.checksums()
    };
    let before = [0, 1].map(|rank| load(rank, &mut rng));
    // Of the rows of this one, the first half is rank 0's.
    let name = "transformer.h.1.mlp.dense_h_to_4h.weight";
    tensors.get_mut(name).expect("it is there").2[5] ^= 0x40;
    fs::write(&path, samples::safetensors(&tensors)).expect("a file");
    let after = [0, 1].map(|rank| load(rank, &mut rng));
    let changed = |rank: usize| -> Vec<&str> {
        let both = before[rank].iter().zip(&after[rank]);
        both.filter(|(before, after)| before != after).map(|(_, after)| &*after.tensor).collect()
    };
    assert_eq!((changed(0), changed(1)), (vec![name], Vec::new()));
}
