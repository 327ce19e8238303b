//! Shapes of models that are measured without their checkpoint.

use model::FalconConfig;
use serde_json::{Value, json};
use sizing::Published;

/// The config.json of [`Shape::Small`].
const SMALL: &[u8] = include_bytes!("shape-1.3b.json");

/// A model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 24 layers of 2,048 columns, 32 query heads, one KV head; 2.6 GB.
    Small,
    /// Falcon-7B; 13.8 GB.
    Falcon7b,
    /// A few million parameters, for tests.
    Tiny,
}

impl Shape {
    /// As the command line and reports call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "1.3b",
            Self::Falcon7b => "7b",
            Self::Tiny => "tiny",
        }
    }

    /// Its config.json.
    #[must_use]
    pub fn config_json(self) -> Value {
        let json = match self {
            Self::Small | Self::Tiny => SMALL,
            Self::Falcon7b => {
                Published::find("huggingface-llm-falcon-7b-bf16").expect("it was published").config_json()
            }
        };
        let mut config: Value = serde_json::from_slice(json).expect("the config is JSON");
        if self == Self::Tiny {
            let fewer =
                [("hidden_size", 256), ("num_hidden_layers", 2), ("num_attention_heads", 4), ("vocab_size", 4_096)];
            fewer.into_iter().for_each(|(key, number)| config[key] = json!(number));
        }
        config
    }

    /// What its config.json says.
    #[must_use]
    pub fn config(self) -> FalconConfig {
        FalconConfig::from_json(self.config_json().to_string().as_bytes()).expect("the config is valid")
    }
}
