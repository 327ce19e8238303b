//! `GET /v1/models`: the one model.

use super::error::Failure;
use crate::Service;
use serde::Serialize;

/// The models that there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ModelList {
    /// "list".
    pub object: &'static str,
    /// The one.
    pub data: [Model; 1],
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Model {
    /// Its name: that of its folder.
    pub id: String,
    /// "model".
    pub object: &'static str,
    /// When the server began, in seconds since 1970.
    pub created: u64,
    /// "peregrine".
    pub owned_by: &'static str,
    /// Its folder, from which clients on the same machine load its tokenizer.
    pub root: String,
    /// It was not made from another model.
    pub parent: Option<()>,
    /// The most tokens of a prompt and its continuation.
    pub max_model_len: usize,
}

impl Model {
    pub(crate) fn new(service: &Service) -> Self {
        let info = service.info();
        let dir = std::path::absolute(&info.model_dir).unwrap_or_else(|_| info.model_dir.clone());
        Self {
            id: info.model_id.clone(),
            object: "model",
            created: service.created(),
            owned_by: "peregrine",
            root: dir.to_string_lossy().into_owned(),
            parent: None,
            max_model_len: info.limits.max_total_tokens,
        }
    }

    /// The model of this name.
    pub(crate) fn named(service: &Service, id: &str) -> Result<Self, Failure> {
        let model = Self::new(service);
        if model.id == id { Ok(model) } else { Err(Failure::no_model(id, &model.id)) }
    }
}
