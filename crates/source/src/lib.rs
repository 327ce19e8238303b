//! Where a model's files are, and how they come to a folder of this machine.
//!
//! * [`Source`]: what `--model` names: a folder, a repository of the Hugging Face hub, or a model in an object store.
//! * [`Repository`]: ORG/NAME at a revision. [`Repository::bring`] makes a folder of it.
//! * [`StoreUrl`]: a bucket and a prefix of an object store. [`StoreUrl::bring`] makes a folder of it; [`Uploads`] writes there.
//! * [`HubSettings`]: where the hub and its cache are, and who asks, by the variables that Hugging Face's own tools have.
//! * `cache`: the cache, laid out as they lay it out, so that either reads what the other wrote.
//! * `hub`: what is asked of the hub; `transfer`: one file, resumed and checked; `snapshot`: a whole model.

mod cache;
mod error;
mod files;
mod hub;
mod progress;
mod repository;
mod settings;
mod snapshot;
mod source;
mod store;
mod transfer;

pub use error::SourceError;
pub use files::Wanted;
pub use progress::Progress;
pub use repository::Repository;
pub use settings::HubSettings;
pub use source::{Freshness, Source};
pub use store::{StoreError, StoreSettings, StoreUrl, Upload, Uploads};
