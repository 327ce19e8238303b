//! TGI's dialect: what its requests come to, its answers, and its documentation.

mod parameters;
mod responses;
mod snapshots;
mod validation;
