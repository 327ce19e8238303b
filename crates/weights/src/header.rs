//! The header of one safetensors file: where each tensor lies.

use crate::WeightsError;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::ops::Range;
use std::path::Path;

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Its place in the file, in bytes: within the file, and as long as dtype and shape say.
    pub(crate) place: Range<usize>,
}

impl Stored {
    pub(crate) fn element_bytes(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Where in the file these elements are, in bytes.
    pub(crate) fn bytes(&self, elements: Range<usize>) -> Range<usize> {
        let [start, end] = [elements.start, elements.end].map(|element| element * self.element_bytes());
        self.place.start + start..self.place.start + end
    }
}

/// The tensors of the file at `path` that consists of `bytes`, with their names.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Stored)>, WeightsError> {
    let (header_bytes, metadata) = SafeTensors::read_metadata(bytes).map_err(|reason| match reason {
        SafeTensorError::MetadataIncompleteBuffer => WeightsError::Length { path: path.to_owned(), found: bytes.len() },
        reason => WeightsError::Header { path: path.to_owned(), bytes: bytes.len(), reason },
    })?;
    let data_start = size_of::<u64>() + header_bytes;
    let tensors = metadata.tensors().into_iter().map(|(tensor, info)| {
        let (start, end) = info.data_offsets;
        (tensor, Stored { dtype: info.dtype, shape: info.shape.clone(), place: data_start + start..data_start + end })
    });
    Ok(tensors.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "dir/model.safetensors";

    /// A file with this header and so many bytes of data.
    fn file(header: &str, data_bytes: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data_bytes]].concat()
    }

    #[test]
    fn places_are_within_the_file() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[6,14]},
            "a":{"dtype":"BF16","shape":[3,1],"data_offsets":[0,6]}}"#;
        let mut tensors = parse(Path::new(PATH), &file(header, 14)).unwrap();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let data = 8 + header.len();
        let (a, b) = (&tensors[0].1, &tensors[1].1);
        assert_eq!((a.dtype, &*a.shape, a.place.clone()), (Dtype::BF16, &[3, 1][..], data..data + 6));
        assert_eq!((b.dtype, &*b.shape, b.place.clone()), (Dtype::F32, &[2][..], data + 6..data + 14));
    }

    #[test]
    fn errors_name_the_file_and_the_tensor() {
        let bf16 = |start, end| format!(r#"{{"w":{{"dtype":"BF16","shape":[4],"data_offsets":[{start},{end}]}}}}"#);
        let overlap = r#"{"v":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},
            "w":{"dtype":"BF16","shape":[4],"data_offsets":[4,12]}}"#;
        let mut longer_than_the_file = file("{}", 0);
        longer_than_the_file[0] = 200;
        let cases: [(Vec<u8>, &[&str]); 11] = [
            (vec![], &["header too small", "0 bytes"]),
            (vec![1; 7], &["header too small", "7 bytes"]),
            (vec![0xff; 64], &["header too large"]),
            (longer_than_the_file, &["invalid header length", "10 bytes"]),
            (file("{", 0), &["invalid JSON in header"]),
            (file(&bf16(0, 8), 7), &["cut short", "bytes are not the sum"]),
            (file(&bf16(0, 8), 9), &["bytes are not the sum"]),
            (file(&bf16(2, 10), 10), &["invalid offset for tensor `w`"]),
            (file(&bf16(0, 6), 6), &["invalid shape, data type, or offset"]),
            (file(overlap, 12), &["invalid offset for tensor `w`"]),
            (file(&bf16(0, 8).replace("[4]", "[18446744073709551615,2]"), 8), &["overflow"]),
        ];
        for (bytes, expected) in cases {
            let text = parse(Path::new(PATH), &bytes).unwrap_err().to_string();
            for part in expected.iter().chain(&[PATH]) {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn damaged_files_give_an_error_or_consistent_tensors() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let header = r#"{"a":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]},
            "b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},
            "c":{"dtype":"F16","shape":[0],"data_offsets":[20,20]}}"#;
        let whole = file(header, 20);
        for round in 0..10_000 {
            let mut bytes = whole.clone();
            match round % 4 {
                0 => rng.fill(&mut bytes),
                1 => bytes.truncate(rng.usize(..bytes.len())),
                2 => {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = rng.u8(..);
                }
                _ => {
                    let at = rng.usize(8..8 + header.len());
                    bytes[at] = *rng.choice(b"0123456789{}[]\",:BF").unwrap();
                }
            }
            for (name, stored) in parse(Path::new(PATH), &bytes).into_iter().flatten() {
                let elements: usize = stored.shape.iter().product();
                assert_eq!(stored.place.len(), elements * stored.dtype.bitsize() / 8, "{name}");
                assert!(stored.place.end <= bytes.len(), "{name}");
            }
        }
    }
}
