//! What Falcon is: `config.json` as a [`FalconConfig`], the tensors of a checkpoint, and the one table that cuts them
//! over ranks.
//!
//! * [`FalconConfig`] reads every variant from the config's fields, never from a layer count.
//! * [`generation_eos`] reads the ends of a text from a `generation_config.json`.
//! * [`Partition`] says which query heads, KV heads, feed-forward columns and vocabulary rows a rank owns.
//! * [`tensors`] lists every tensor of a model with its shape and [`Cut`]; [`TensorNames`] finds them under the names
//!   that a checkpoint stores; [`shard`] turns the list into the pieces that one rank reads.
//!
//! **Invariant:** nothing here knows a device, a file or a socket.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod config;
mod fields;
mod generation_config;
mod keys;
mod names;
mod partition;
mod rope;
mod tensors;

pub use config::{AttentionLayout, ConfigError, FalconConfig, LayerNorms, Positions};
pub use generation_config::generation_eos;
pub use names::{NamesError, TensorNames};
pub use partition::{LocalGroup, Partition, cut_range};
pub use rope::{Rope, RopeScaling};
pub use tensors::{Cut, Part, Role, ShardTensor, TensorId, TensorSpec, shard, tensors};
