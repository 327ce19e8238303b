//! The templates of a model's folder, and its special tokens.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{ChatTemplateError, SOURCE_BYTES_MAX};
use crate::lfs::is_lfs_pointer;
use crate::special_tokens::{CONFIG, read_object};

/// A template alone in its file.
const ALONE: &str = "chat_template.jinja";
/// The folder of further ones.
const FURTHER: &str = "additional_chat_templates";
/// Their ending.
const ENDING: &str = ".jinja";
/// The key of tokenizer_config.json.
const KEY: &str = "chat_template";

/// The name of the template that is taken where none is asked for.
pub(super) const DEFAULT: &str = "default";
/// The name of the template that is taken instead if there are tools.
pub(super) const TOOL_USE: &str = "tool_use";

/// A template as it is written.
pub(super) struct Source {
    pub(super) name: String,
    /// Where it stands, for messages.
    pub(super) place: String,
    pub(super) text: String,
}

/// The templates in `dir`, as transformers chooses them: files that hold nothing else go before tokenizer_config.json. No
/// two have the same name.
pub(super) fn read(dir: &Path) -> Result<Vec<Source>, ChatTemplateError> {
    let mut sources = Vec::new();
    if let Some(text) = read_file(&dir.join(ALONE))? {
        let place = dir.join(ALONE).display().to_string();
        sources.push(Source { name: DEFAULT.to_owned(), place, text });
    }
    for (name, path) in further(&dir.join(FURTHER))? {
        let Some(text) = read_file(&path)? else { continue };
        sources.retain(|source: &Source| source.name != name);
        sources.push(Source { name, place: path.display().to_string(), text });
    }
    if sources.is_empty() {
        let path = dir.join(CONFIG);
        let config = read_object(&path)?.unwrap_or_default();
        sources = of_config(&path, &config)?;
    }
    bounded(sources)
}

/// The template in a file, which must be there.
pub(super) fn read_one(path: &Path) -> Result<Vec<Source>, ChatTemplateError> {
    let Some(text) = read_file(path)? else {
        return Err(ChatTemplateError::Io { path: path.to_owned(), source: ErrorKind::NotFound.into() });
    };
    bounded(vec![Source { name: DEFAULT.to_owned(), place: path.display().to_string(), text }])
}

fn bounded(sources: Vec<Source>) -> Result<Vec<Source>, ChatTemplateError> {
    match sources.iter().find(|source| source.text.len() > SOURCE_BYTES_MAX) {
        Some(Source { place, text, .. }) => {
            Err(ChatTemplateError::TooLong { place: place.clone(), bytes: text.len(), max: SOURCE_BYTES_MAX })
        }
        None => Ok(sources),
    }
}

/// The files of the folder of further templates, by name.
fn further(dir: &Path) -> Result<Vec<(String, PathBuf)>, ChatTemplateError> {
    let io = |source| ChatTemplateError::Io { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ENDING));
        if let Some(name) = name {
            files.push((name.to_owned(), path));
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file, if it is there.
fn read_file(path: &Path) -> Result<Option<String>, ChatTemplateError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ChatTemplateError::Io { path: path.to_owned(), source }),
    };
    if is_lfs_pointer(&bytes) {
        return Err(ChatTemplateError::LfsPointer { path: path.to_owned() });
    }
    let text =
        String::from_utf8(bytes).map_err(|source| ChatTemplateError::NotUtf8 { path: path.to_owned(), source })?;
    // Python opens it as a text file.
    Ok(Some(text.replace("\r\n", "\n").replace('\r', "\n")))
}

/// `chat_template` of tokenizer_config.json: a template, a list of `{name, template}`, or an object of templates by name.
fn of_config(path: &Path, config: &Map<String, Value>) -> Result<Vec<Source>, ChatTemplateError> {
    let source = |name: &str, key: String, text: &str| Source {
        name: name.to_owned(),
        place: format!("{}: `{key}`", path.display()),
        text: text.to_owned(),
    };
    let wrong = |key: String, expected, found: &Value| ChatTemplateError::Value {
        path: path.to_owned(),
        key,
        expected,
        found: found.to_string().chars().take(60).collect(),
    };
    let text_of = |key: String, value: &Value| {
        value.as_str().map(str::to_owned).ok_or_else(|| wrong(key, "a template as a string", value))
    };
    let mut sources: Vec<Source> = Vec::new();
    match config.get(KEY) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => sources.push(source(DEFAULT, KEY.to_owned(), text)),
        Some(Value::Array(list)) => {
            for (at, entry) in list.iter().enumerate() {
                let key = format!("{KEY}[{at}]");
                let name = entry.get("name").and_then(Value::as_str);
                let (Some(name), Some(template)) = (name, entry.get("template")) else {
                    return Err(wrong(key, "an object with `name` and `template`", entry));
                };
                let text = text_of(format!("{key}.template"), template)?;
                sources.retain(|source| source.name != name);
                sources.push(source(name, format!("{key}.template"), &text));
            }
        }
        Some(Value::Object(templates)) => {
            for (name, template) in templates {
                let key = format!("{KEY}.{name}");
                let text = text_of(key.clone(), template)?;
                sources.push(source(name, key, &text));
            }
        }
        Some(other) => {
            return Err(wrong(KEY.to_owned(), "a template, or a list of objects with `name` and `template`", other));
        }
    }
    Ok(sources)
}
