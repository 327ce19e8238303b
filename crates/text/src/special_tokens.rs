//! Special and added tokens that stand beside tokenizer.json, and the token that ends a text.
//!
//! They are read as `AutoTokenizer` of transformers 4 does (`PreTrainedTokenizerBase._from_pretrained`): with an
//! `added_tokens_decoder`, tokenizer_config.json speaks for all; without one, special_tokens_map.json goes before it, and
//! added_tokens.json adds to both.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::TokenizerError;
use crate::lfs::is_lfs_pointer;

pub(crate) const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Keys that name one token each, in transformers' order, which is that of new ids.
const ROLES: [&str; 7] = ["bos_token", EOS, "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const EOS: &str = "eos_token";
/// Keys that name several; the second since transformers 5.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// A special token and the file that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    file: &'static str,
    token: AddedToken,
}

/// An added token and the id that a file states for it.
struct Stated {
    id: u32,
    token: AddedToken,
}

/// What the files beside tokenizer.json say.
pub(crate) struct SpecialTokens {
    dir: PathBuf,
    stated_in: &'static str,
    /// By id.
    stated: Vec<Stated>,
    roles: [Option<Named>; ROLES.len()],
    others: Vec<AddedToken>,
}

impl SpecialTokens {
    /// Reads the files in `dir`; each of them may be missing.
    pub(crate) fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let config = read_object(&dir.join(CONFIG))?.unwrap_or_default();
        let mut tokens = Self {
            dir: dir.to_owned(),
            stated_in: CONFIG,
            stated: Vec::new(),
            roles: Default::default(),
            others: Vec::new(),
        };
        tokens.take_names(CONFIG, &config)?;
        match config.get("added_tokens_decoder") {
            None | Some(Value::Null) => {
                tokens.take_names(MAP, &read_object(&dir.join(MAP))?.unwrap_or_default())?;
                tokens.stated_in = ADDED;
                tokens.take_ids(&read_object(&dir.join(ADDED))?.unwrap_or_default())?;
            }
            Some(Value::Object(decoder)) => tokens.take_decoder(decoder)?,
            Some(other) => {
                return Err(tokens.wrong(CONFIG, "added_tokens_decoder", "an object of tokens by id", other));
            }
        }
        tokens.stated.sort_by_key(|stated| stated.id);
        Ok(tokens)
    }

    /// Adds to `library` the tokens that it lacks.
    pub(crate) fn add_to(&self, library: &mut tokenizers::Tokenizer) -> Result<(), TokenizerError> {
        let present: Vec<AddedToken> = library.get_added_tokens_decoder().into_values().collect();
        let stated = self.stated.iter().map(|stated| &stated.token).filter(|token| !present.contains(token));
        let mut new: Vec<AddedToken> = stated.cloned().collect();
        let named: Vec<&AddedToken> =
            self.roles.iter().flatten().map(|named| &named.token).chain(&self.others).collect();
        for token in &named {
            if !present.iter().chain(&new).any(|other| other.content == token.content) {
                new.push((*token).clone());
            }
        }
        let special: HashSet<&str> = named.iter().map(|token| &*token.content).collect();
        for token in &mut new {
            token.special |= special.contains(&*token.content);
        }
        let unknown = self.stated.iter().filter(|stated| library.token_to_id(&stated.token.content).is_none());
        let unknown: Vec<&Stated> = unknown.collect();
        let unreadable = |source| TokenizerError::Unreadable { path: self.dir.join(self.stated_in), source };
        library.add_tokens(new).map_err(unreadable)?;
        for Stated { id: stated, token } in unknown {
            let free = library.token_to_id(&token.content).expect("it has just been added");
            if free != *stated {
                let (path, token) = (self.dir.join(self.stated_in), token.content.clone());
                return Err(TokenizerError::AddedTokenId { path, token, stated: *stated, free });
            }
        }
        Ok(())
    }

    /// The text of the token that ends a text, and the file that names it.
    pub(crate) fn eos(&self) -> Option<(&str, &'static str)> {
        let at = ROLES.iter().position(|role| *role == EOS)?;
        self.roles[at].as_ref().map(|named| (&*named.token.content, named.file))
    }

    /// The texts of the tokens that have a role, such as `bos_token`, by role.
    pub(crate) fn by_role(&self) -> impl Iterator<Item = (&'static str, &str)> {
        ROLES.into_iter().zip(&self.roles).filter_map(|(role, named)| Some((role, &*named.as_ref()?.token.content)))
    }

    /// Takes the named tokens of `file`, which go before those of files read earlier.
    fn take_names(&mut self, file: &'static str, object: &Map<String, Value>) -> Result<(), TokenizerError> {
        for (at, role) in ROLES.iter().enumerate() {
            if let Some(value) = object.get(*role).filter(|value| !value.is_null()) {
                self.roles[at] = Some(Named { file, token: self.token(file, role, value, true)? });
            }
        }
        for key in LISTS {
            let values: Vec<&Value> = match object.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(values)) => values.iter().collect(),
                Some(Value::Object(values)) => values.values().collect(),
                Some(other) => return Err(self.wrong(file, key, "a list of tokens", other)),
            };
            for value in values {
                let token = self.token(file, key, value, true)?;
                if !self.others.iter().any(|other| other.content == token.content) {
                    self.others.push(token);
                }
            }
        }
        Ok(())
    }

    /// `added_tokens_decoder` of tokenizer_config.json: tokens by id.
    fn take_decoder(&mut self, decoder: &Map<String, Value>) -> Result<(), TokenizerError> {
        for (id, value) in decoder {
            let key = format!("added_tokens_decoder.{id}");
            let id = id.parse().map_err(|_| self.wrong(CONFIG, &key, "a token id as the key", &Value::from(&**id)))?;
            let token = self.token(CONFIG, &key, value, false)?;
            self.stated.push(Stated { id, token });
        }
        Ok(())
    }

    /// added_tokens.json: ids by token.
    fn take_ids(&mut self, ids: &Map<String, Value>) -> Result<(), TokenizerError> {
        for (content, value) in ids {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| self.wrong(ADDED, content, "a token id", value))?;
            let mut names = self.roles.iter().flatten().map(|named| &named.token).chain(&self.others);
            let special = names.any(|token| token.content == *content);
            self.stated.push(Stated { id, token: AddedToken::from(content, special) });
        }
        Ok(())
    }

    /// A token as its text, or as an object with its `content` and flags.
    fn token(&self, file: &'static str, key: &str, value: &Value, special: bool) -> Result<AddedToken, TokenizerError> {
        let wrong = || self.wrong(file, key, "a token's text, or an object with its `content`", value);
        let object = match value {
            Value::String(content) => return Ok(AddedToken::from(content, special)),
            Value::Object(object) => object,
            _ => return Err(wrong()),
        };
        let content = object.get("content").and_then(Value::as_str).ok_or_else(wrong)?;
        let flag = |name: &str, default: bool| object.get(name).and_then(Value::as_bool).unwrap_or(default);
        let special = special || flag("special", false);
        Ok(AddedToken::from(content, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)))
    }

    fn wrong(&self, file: &str, key: &str, expected: &'static str, found: &Value) -> TokenizerError {
        TokenizerError::value(&self.dir.join(file), key, expected, found)
    }
}

/// A JSON object, if the file is there.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TokenizerError::Io { path: path.to_owned(), source }),
    };
    if is_lfs_pointer(&bytes) {
        return Err(TokenizerError::LfsPointer { path: path.to_owned() });
    }
    let object = serde_json::from_slice(&bytes);
    object.map(Some).map_err(|source| TokenizerError::Json { path: path.to_owned(), source })
}
