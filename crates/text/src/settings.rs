//! Keys of tokenizer_config.json by which `AutoTokenizer` of transformers changes what tokenizer.json says.
//!
//! The same key does not do the same in transformers 4.57 and 5.23:
//!
//! | key | 4.57 | 5.23 | here |
//! |---|---|---|---|
//! | `split_special_tokens` | special tokens in a text are split like other text | the same | the same |
//! | `add_prefix_space` | replaces that of a pre-tokenizer which is ByteLevel alone | none | refused where 4.57 would change something |
//! | `clean_up_tokenization_spaces` | decoding removes spaces before `.`, `,`, `n't` and others | none | none |
//!
//! Without the key, 4.57 takes `add_prefix_space` for false, and here the pre-tokenizer stays as it is, as in 5.23. Falcon's is a
//! sequence, which neither changes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::PreTokenizerWrapper;

use crate::TokenizerError;
use crate::special_tokens::{CONFIG, read_object};

const SPLIT: &str = "split_special_tokens";
const PREFIX: &str = "add_prefix_space";
const CLEAN_UP: &str = "clean_up_tokenization_spaces";

/// What these keys say; absent is false.
pub(crate) struct Settings {
    path: PathBuf,
    split_special_tokens: bool,
    add_prefix_space: Option<bool>,
    pub(crate) cleans_up: bool,
}

impl Settings {
    /// Reads tokenizer_config.json in `dir`, if it is there.
    pub(crate) fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join(CONFIG);
        let config = read_object(&path)?.unwrap_or_default();
        let wrong = |key: &str, found| TokenizerError::value(&path, key, "true or false", found);
        // transformers refuses a null of this one, and takes it as absent of the others.
        let split = match config.get(SPLIT) {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| wrong(SPLIT, value))?,
        };
        let flag = |key| boolean(&config, key).map_err(|found| wrong(key, found));
        let (add_prefix_space, cleans_up) = (flag(PREFIX)?, flag(CLEAN_UP)?.unwrap_or(false));
        Ok(Self { split_special_tokens: split, add_prefix_space, cleans_up, path })
    }

    /// Changes `library` as transformers does.
    pub(crate) fn apply(&self, library: &mut tokenizers::Tokenizer) -> Result<(), TokenizerError> {
        library.set_encode_special_tokens(self.split_special_tokens);
        if let (Some(PreTokenizerWrapper::ByteLevel(level)), Some(asked)) =
            (library.get_pre_tokenizer(), self.add_prefix_space)
            && asked != level.add_prefix_space
        {
            let expected = "the value of tokenizer.json, as transformers 4 and 5 each take another one";
            return Err(TokenizerError::value(&self.path, PREFIX, expected, &Value::from(asked)));
        }
        Ok(())
    }
}

fn boolean<'a>(config: &'a Map<String, Value>, key: &str) -> Result<Option<bool>, &'a Value> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_bool().map(Some).ok_or(value),
    }
}
