//! The generated gRPC types, and the conversions between those of the control plane and the plain data of `step`.
//!
//! * [`generation`]: the public services: generation, and administration.
//! * [`control`]: messages and stubs of the control plane. Its step messages stay behind this crate: [`plan_to_wire`] and
//!   its siblings are the only way in and out, and every way in is fallible.
//! * [`hand_over`], [`take_over`]: what a worker is given over its socket before the control plane begins there.
//! * [`connect_over`], [`endpoint`]: a client's channel over a stream that is connected already, and over the network.
//!
//! **Invariant:** no other crate sees the prost types of a step.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod connect;
mod convert;
mod handover;

pub use connect::{connect_over, endpoint};
pub use convert::{ConvertError, command_from_wire, mask_to_wire, plan_to_wire, result_from_wire, result_to_wire};
pub use handover::{hand_over, take_over};

/// The public services, generated from `proto/peregrine/v1/generation.proto` and `admin.proto`.
#[expect(missing_docs, clippy::too_many_lines, reason = "generated; the proto file has the documentation")]
pub mod generation {
    tonic::include_proto!("peregrine.v1");
}

/// The control plane, generated from `proto/peregrine/v1/control.proto`.
#[expect(missing_docs, clippy::too_many_lines, reason = "generated; the proto file has the documentation")]
pub mod control {
    tonic::include_proto!("peregrine.control.v1");
}

/// The most bytes of one message of the control plane: plans of a thousand long prompts, or the logits of a batch.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 1 << 30;

/// The exit code of a process that could not read a mapped file of the model: `EX_IOERR` of BSD's sysexits.
pub const FILE_FAULT_EXIT_CODE: i32 = 74;

/// Descriptors of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peregrine.bin"));
