//! The model that is planned for: a folder, a published model by its JumpStart id, or one of the Hugging Face hub.

use crate::hub_args::HubArgs;
use anyhow::Result;
use model::FalconConfig;
use sizing::Published;
use std::path::Path;
use weights::{Checkpoint, WeightsError};

/// The node that a folder's model is planned for, if none is named.
pub const FOLDER_NODE: &str = "p4de.24xlarge";

/// A model's shape, and the node that it is planned for if none is named.
pub struct Model {
    /// As it was asked for.
    pub name: String,
    /// Its shape.
    pub config: FalconConfig,
    /// What a folder has of its weights, in a sentence; `None` of a published id.
    pub checkpoint: Option<String>,
    /// Name of its default node.
    pub default_node: &'static str,
}

impl Model {
    /// The model in the folder `name`, whose weights may be yet to come, or else the published one with that id, whose shape is
    /// known, or else the one of the hub.
    pub fn open(name: &str, hub: &HubArgs) -> Result<Self> {
        let published = Published::find(name).filter(|_| !Path::new(name).is_dir());
        let (config, checkpoint, default_node) = if let Some(published) = published {
            (published.config(), None, published.node)
        } else {
            let (config, checkpoint) = look(&hub.description(Path::new(name))?)?;
            (config, Some(checkpoint), FOLDER_NODE)
        };
        Ok(Self { name: name.to_owned(), config, checkpoint, default_node })
    }
}

/// A folder's model, and what is to be said of its weights.
fn look(dir: &Path) -> Result<(FalconConfig, String)> {
    Ok(match Checkpoint::open(dir) {
        Ok(checkpoint) => {
            let notes: Vec<_> = checkpoint.notes().iter().map(ToString::to_string).collect();
            let said = if notes.is_empty() { "ok".to_owned() } else { notes.join("; ") };
            (checkpoint.config().clone(), said)
        }
        Err(error @ WeightsError::NoCheckpoint { .. }) => (weights::read_config(dir)?, error.to_string()),
        Err(error) => return Err(error.into()),
    })
}
