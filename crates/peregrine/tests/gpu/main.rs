//! The command and the scripts for machines with GPUs, over the stand-in libraries.

mod health;
mod launch;
mod machine;
mod standin;
