//! A copy of the demo model that is damaged, and put right again.

use crate::support::demo_model;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Files are mapped by pages.
const PAGE: u64 = 4096;

/// The model, whose weights are mapped by whoever runs it.
pub struct Model {
    dir: TempDir,
    right: Vec<u8>,
    /// Where each tensor's bytes begin and end in the file.
    tensors: Vec<(String, u64, u64)>,
}

impl Model {
    /// The name of the file with the weights.
    pub const FILE: &str = "model.safetensors";

    /// A copy.
    pub fn copy() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        for entry in fs::read_dir(demo_model()).expect("the demo model").flatten() {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("room");
        }
        let right = fs::read(dir.path().join(Self::FILE)).expect("weights");
        let tensors = tensors(&right);
        Self { dir, right, tensors }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join(Self::FILE)
    }

    fn open(&self) -> File {
        File::options().write(true).open(self.file()).expect("the weights")
    }

    /// Changes a byte of a tensor, and returns the tensor's name.
    pub fn change_a_byte(&self, random: &mut fastrand::Rng) -> &str {
        let (name, begin, end) = &self.tensors[random.usize(..self.tensors.len())];
        let at = random.u64(begin..end);
        let other = self.right[usize::try_from(at).expect("a small file")] ^ (1 << random.u8(0..8));
        self.open().write_all_at(&[other], at).expect("room");
        name
    }

    /// Cuts the file short, within what is mapped, between two pages: of a page that is cut the rest would read as zeros.
    pub fn cut(&self, random: &mut fastrand::Rng) {
        let first = self.tensors.iter().map(|(_, begin, _)| begin.div_ceil(PAGE)).min().expect("a tensor");
        let pages = random.u64(first..self.right.len() as u64 / PAGE);
        self.open().set_len(pages * PAGE).expect("a shorter file");
    }

    /// Puts the right bytes back.
    pub fn put_right(&self) {
        self.open().write_all_at(&self.right, 0).expect("room");
    }
}

/// The tensors of a safetensors file.
fn tensors(file: &[u8]) -> Vec<(String, u64, u64)> {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes"));
    let data = 8 + length;
    let header = &file[8..usize::try_from(data).expect("a small file")];
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).expect("a header");
    let place = |(name, entry): (String, serde_json::Value)| {
        let offsets = entry.get("data_offsets")?.as_array()?.iter().map(serde_json::Value::as_u64);
        let offsets: Vec<_> = offsets.collect::<Option<_>>()?;
        Some((name, data + offsets[0], data + offsets[1]))
    };
    header.into_iter().filter_map(place).collect()
}
