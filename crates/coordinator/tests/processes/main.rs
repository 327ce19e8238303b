//! Worker processes that behave oddly, and what the coordinator makes of it.

mod streams;
mod survivors;
mod worker;
