//! Tests of `model` from outside: configs, cuts over ranks, checkpoints held against the shard table.

mod checkpoint;
mod config;
mod models;
mod partition;
