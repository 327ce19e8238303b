//! The model that is planned for: a folder, or a published model by its JumpStart id.

use anyhow::{Result, bail};
use model::FalconConfig;
use sizing::{PUBLISHED, Published};
use std::path::Path;

/// The node that a folder's model is planned for, if none is named.
pub const FOLDER_NODE: &str = "p4de.24xlarge";

/// A model's shape, and the node that it is planned for if none is named.
pub struct Model {
    /// As it was asked for.
    pub name: String,
    /// Its shape.
    pub config: FalconConfig,
    /// Name of its default node.
    pub default_node: &'static str,
}

impl Model {
    /// The model in the folder `name`, of which only `config.json` is read, or else the published one with that id.
    pub fn open(name: &str) -> Result<Self> {
        let dir = Path::new(name);
        let (config, default_node) = if dir.is_dir() {
            (weights::inspect(dir)?, FOLDER_NODE)
        } else if let Some(published) = Published::find(name) {
            (published.config(), published.node)
        } else {
            let known = PUBLISHED.map(|published| published.id).join("\n  ");
            bail!("--model {name}: there is no such folder, and no such id; ids are\n  {known}");
        };
        Ok(Self { name: name.to_owned(), config, default_node })
    }
}
