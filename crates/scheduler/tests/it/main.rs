//! Tests of `scheduler` from outside: readable traces, the block pool against a model, and a random simulation.

mod fairness;
mod itl;
mod pool;
mod ranks;
mod seed;
mod simulation;
mod traces;
