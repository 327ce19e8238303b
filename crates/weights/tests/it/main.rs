//! Tests of `weights` over whole model directories: the ones of `testdata`, and small ones written here.

mod checksums;
mod cut;
mod directories;
mod dtypes;
mod notes;
mod samples;
mod shards;
