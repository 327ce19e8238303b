//! The model that is planned for: a folder, or a published model by its JumpStart id.

use anyhow::{Result, bail};
use model::FalconConfig;
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

struct Published {
    id: &'static str,
    config: &'static [u8],
    default_node: &'static str,
}

const FALCON_7B: &[u8] = include_bytes!("configs/falcon-7b.json");
const FALCON_40B: &[u8] = include_bytes!("configs/falcon-40b.json");
const FALCON_180B: &[u8] = include_bytes!("configs/falcon-180b.json");

const PUBLISHED: [Published; 6] = {
    const fn row(id: &'static str, config: &'static [u8], default_node: &'static str) -> Published {
        Published { id, config, default_node }
    }
    [
        row("huggingface-llm-falcon-7b-bf16", FALCON_7B, "g5.2xlarge"),
        row("huggingface-llm-falcon-7b-instruct-bf16", FALCON_7B, "g5.2xlarge"),
        row("huggingface-llm-falcon-40b-bf16", FALCON_40B, "g5.12xlarge"),
        row("huggingface-llm-falcon-40b-instruct-bf16", FALCON_40B, "g5.12xlarge"),
        row("huggingface-llm-falcon-180b-bf16", FALCON_180B, "p4de.24xlarge"),
        row("huggingface-llm-falcon-180b-chat-bf16", FALCON_180B, "p4de.24xlarge"),
    ]
};

/// All ids that [`Model::open`] knows.
pub fn ids() -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().map(|published| published.id)
}

impl Model {
    /// The model in the folder `name`, of which only `config.json` is read, or else the published one with that id.
    pub fn open(name: &str) -> Result<Self> {
        let dir = Path::new(name);
        let (config, default_node) = if dir.is_dir() {
            (weights::read_config(dir)?, FOLDER_NODE)
        } else if let Some(published) = PUBLISHED.iter().find(|published| published.id == name) {
            (FalconConfig::from_json(published.config).expect("a published config is valid"), published.default_node)
        } else {
            let known: Vec<&str> = ids().collect();
            bail!("--model {name}: there is no such folder, and no such id; ids are\n  {}", known.join("\n  "));
        };
        Ok(Self { name: name.to_owned(), config, default_node })
    }
}
