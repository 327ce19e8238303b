//! A rank's shard of a safetensors checkpoint, read over mmap.
//!
//! * [`Checkpoint`] opens a model directory: it maps the safetensors files, and holds their headers against `config.json`.
//!   [`Note`]s say what about it may surprise. It is [`Unresolved`] until tied weights that are stored twice were compared.
//! * [`read_config`] reads `config.json` alone.
//! * [`read_generation_eos`] reads the ends of a text from `generation_config.json`.
//! * [`ShardReader`] copies a rank's tensors out of the maps by byte runs, from as many threads as the caller likes.
//! * [`Mapped`] is a rank's part of a tensor where its file is mapped, for devices that can use it there.
//! * [`TensorChecksum`]s tell whether a later load of the same part has read the same.
//! * [`Cutting`] cuts a model for its ranks: a file for each, and a [`Manifest`] of what is in them. A [`Checkpoint`] opens such a
//!   folder, too.
//! * [`Progress`] tells another thread how far that is.
//!
//! **Invariant:** whatever a directory holds, opening it gives a [`WeightsError`] that names the file, or a checkpoint
//! in which every tensor of the model lies within its file, in its shape. A file that is changed while a reader or a
//! [`Mapped`] has it is not defended against: what is read then is undefined data. Where it was cut short or its disk fails, the
//! process ends with a line that names the file, if [`report_faults`] was called, and else by SIGBUS alone.

#![deny(clippy::print_stdout, clippy::print_stderr)]
#![deny(unsafe_code)]

mod checkpoint;
mod checksum;
mod cut;
mod error;
mod files;
mod generation;
mod header;
mod index;
mod layout;
mod manifest;
mod mapped;
mod mmap;
mod note;
mod progress;
mod reader;

pub use checkpoint::{Checkpoint, Unresolved, read_config};
pub use checksum::TensorChecksum;
pub use cut::{CutFile, CutFolder, CutTarget, Cutting};
pub use error::WeightsError;
pub use generation::read_generation_eos;
pub use manifest::{Crc32, Manifest, OtherFile, RankFile};
pub use mapped::Mapped;
pub use mmap::{Fault, report_faults};
pub use note::Note;
pub use progress::Progress;
pub use reader::ShardReader;
