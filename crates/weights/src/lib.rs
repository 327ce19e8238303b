//! A rank's shard of a safetensors checkpoint, read over mmap.
//!
//! * [`read_config`] reads a model directory's `config.json`.
//! * [`CheckpointFiles`] maps the directory's safetensors files and checks their headers.
//! * [`ShardReader`] copies a rank's tensors out of the maps by byte runs, from as many threads as the caller likes.
//! * [`Mapped`] is a tensor where its file is mapped, for devices that can use it there.
//! * [`Progress`] tells another thread how far that is.
//!
//! **Invariant:** whatever a directory holds, opening it gives a [`WeightsError`] that names the file, or a checkpoint
//! in which every tensor of the model lies within its file, in its shape. A file that is changed while a reader or a
//! [`Mapped`] has it is not defended against: what is read then is undefined data, or SIGBUS if it was cut short.

#![deny(unsafe_code)]

mod error;
mod files;
mod header;
mod index;
mod mapped;
mod mmap;
mod progress;
mod reader;

pub use error::WeightsError;
pub use files::{CheckpointFiles, read_config};
pub use mapped::Mapped;
pub use progress::Progress;
pub use reader::ShardReader;
