//! Whole models over the plain reference.

mod checkpoints;
mod goldens;
mod reads;
mod support;
