//! The published models, by their JumpStart ids.

use model::FalconConfig;

/// A published model.
pub struct Published {
    /// Its JumpStart id.
    pub id: &'static str,
    /// Its repository on the Hugging Face hub.
    pub repository: &'static str,
    config: &'static [u8],
    /// Name of the node that it is meant for.
    pub node: &'static str,
}

const FALCON_7B: &[u8] = include_bytes!("configs/falcon-7b.json");
const FALCON_40B: &[u8] = include_bytes!("configs/falcon-40b.json");
const FALCON_180B: &[u8] = include_bytes!("configs/falcon-180b.json");

/// All of them.
pub const PUBLISHED: [Published; 6] = {
    const fn row(id: &'static str, repository: &'static str, config: &'static [u8], node: &'static str) -> Published {
        Published { id, repository, config, node }
    }
    [
        row("huggingface-llm-falcon-7b-bf16", "tiiuae/falcon-7b", FALCON_7B, "g5.2xlarge"),
        row("huggingface-llm-falcon-7b-instruct-bf16", "tiiuae/falcon-7b-instruct", FALCON_7B, "g5.2xlarge"),
        row("huggingface-llm-falcon-40b-bf16", "tiiuae/falcon-40b", FALCON_40B, "g5.12xlarge"),
        row("huggingface-llm-falcon-40b-instruct-bf16", "tiiuae/falcon-40b-instruct", FALCON_40B, "g5.12xlarge"),
        row("huggingface-llm-falcon-180b-bf16", "tiiuae/falcon-180B", FALCON_180B, "p4de.24xlarge"),
        row("huggingface-llm-falcon-180b-chat-bf16", "tiiuae/falcon-180B-chat", FALCON_180B, "p4de.24xlarge"),
    ]
};

impl Published {
    /// The model with this id, if there is one.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        PUBLISHED.iter().find(|published| published.id == id)
    }

    /// Its config.json.
    #[must_use]
    pub fn config_json(&self) -> &'static [u8] {
        self.config
    }

    /// Its shape.
    ///
    /// # Panics
    ///
    /// Never: the configs are tested.
    #[must_use]
    pub fn config(&self) -> FalconConfig {
        FalconConfig::from_json(self.config).expect("a published config is valid")
    }
}
