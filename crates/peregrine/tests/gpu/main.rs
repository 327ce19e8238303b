//! The command and the scripts for machines with GPUs, over the stand-in libraries.

mod launch;
mod machine;
mod standin;
