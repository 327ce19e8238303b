//! Which of a repository's files a model needs.

use crate::SourceError;
use serde_json::Value;
use std::path::Path;

/// What is wanted of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All that is needed to run it.
    Model,
    /// All but its weights.
    Description,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files that say what a model is and how it is spoken to. Without those of the first row there is no model.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const READ_IF_THERE: [&str; 6] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    // An adapter beside a model is an error of its reader's, which must see it.
    "adapter_config.json",
];
/// The folder of further chat templates, and their ending.
const TEMPLATES: (&str, &str) = ("additional_chat_templates/", ".jinja");

/// Those of a repository's files that describe a model, and the index of its weights if they are wanted, too: without them, a
/// folder with an index lacks files.
pub(crate) fn description(names: &[String], wanted: Wanted) -> Vec<String> {
    let index = (wanted == Wanted::Model).then_some(INDEX);
    let is_read = |name: &str| NEEDED.into_iter().chain(READ_IF_THERE).chain(index).any(|read| read == name);
    names.iter().filter(|name| is_read(name) || is_template(name)).cloned().collect()
}

fn is_template(name: &str) -> bool {
    let inner = name.strip_prefix(TEMPLATES.0).and_then(|rest| rest.strip_suffix(TEMPLATES.1));
    inner.is_some_and(|inner| !inner.contains('/'))
}

/// Whether a repository has weights that can be read, as its list of files says.
pub(crate) fn has_weights(names: &[String]) -> bool {
    names.iter().any(|name| name == SINGLE || name == INDEX)
}

/// A file with weights that cannot be read, for a message.
pub(crate) fn other_weights(names: &[String]) -> Option<&String> {
    let is_other = |name: &&String| {
        [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".safetensors"].iter().any(|end| name.ends_with(end))
    };
    names.iter().find(is_other)
}

/// The files with the weights of a model: the one file if `has` it, else those that the index in `dir` names.
///
/// # Errors
///
/// The index cannot be read, or is none.
pub(crate) fn weights(dir: &Path, has: impl Fn(&str) -> bool) -> Result<Vec<String>, SourceError> {
    if has(SINGLE) {
        return Ok(vec![SINGLE.to_owned()]);
    }
    let path = dir.join(INDEX);
    let text = std::fs::read(&path).map_err(|reason| SourceError::Io { path: path.clone(), reason })?;
    let wrong = |found: String| SourceError::Index { path: path.clone(), found };
    let index: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| wrong("none".to_owned()))?;
    let name = |value: &Value| {
        let name = value.as_str().filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'));
        name.map(str::to_owned).ok_or_else(|| wrong(value.to_string()))
    };
    let mut names: Vec<String> = map.values().map(name).collect::<Result<_, _>>()?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The first file that is wanted and not in `dir`, if there is one.
pub(crate) fn missing(dir: &Path, wanted: Wanted) -> Option<String> {
    // A link whose blob is gone leads nowhere.
    let lacks = |name: &str| !dir.join(name).exists();
    if let Some(name) = NEEDED.into_iter().find(|name| lacks(name)) {
        return Some(name.to_owned());
    }
    match wanted {
        Wanted::Description => None,
        Wanted::Model => match weights(dir, |name| !lacks(name)) {
            Ok(names) => names.into_iter().find(|name| lacks(name)),
            Err(_) => Some(SINGLE.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_what_is_read_is_taken() {
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "configuration_falcon.py",
            "tokenizer.json",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/a/b.jinja",
            "onnx/config.json",
            "pytorch_model.bin.index.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
        ];
        let all = names(&all);
        let mut expected = names(&[
            "config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
        ]);
        assert_eq!(description(&all, Wanted::Description), expected);
        expected.push(INDEX.to_owned());
        assert_eq!(description(&all, Wanted::Model), expected);
    }

    #[test]
    fn weights_are_the_one_file_or_those_of_the_index() {
        let dir = tempfile::tempdir().expect("a folder");
        let none = |_: &str| false;
        assert_eq!(weights(dir.path(), |name| name == SINGLE).expect("it is there"), [SINGLE]);
        let write = |text: &str| std::fs::write(dir.path().join(INDEX), text).expect("a file");
        write(r#"{"weight_map": {"b": "2.safetensors", "a": "1.safetensors", "c": "2.safetensors"}}"#);
        assert_eq!(weights(dir.path(), none).expect("an index"), ["1.safetensors", "2.safetensors"]);
        for wrong in
            ["", "[]", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": "../x"}}"#, r#"{"weight_map": {"a": 1}}"#]
        {
            write(wrong);
            let error = weights(dir.path(), none).expect_err("no index").to_string();
            assert!(error.contains(INDEX) && error.contains("weight_map"), "{error}");
        }
    }

    #[test]
    fn a_folder_lacks_the_first_file_that_is_not_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
        let lacks = |wanted| missing(dir.path(), wanted);
        assert_eq!(lacks(Wanted::Model).as_deref(), Some("config.json"));
        write("config.json", "{}");
        assert_eq!(lacks(Wanted::Description).as_deref(), Some("tokenizer.json"));
        write("tokenizer.json", "{}");
        assert_eq!((lacks(Wanted::Description), lacks(Wanted::Model).as_deref()), (None, Some(SINGLE)));
        write(INDEX, r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#);
        write("1.safetensors", "");
        assert_eq!(lacks(Wanted::Model).as_deref(), Some("2.safetensors"));
        std::os::unix::fs::symlink("../gone", dir.path().join("2.safetensors")).expect("a link");
        assert_eq!(lacks(Wanted::Model).as_deref(), Some("2.safetensors"), "it leads nowhere");
        write(SINGLE, "");
        assert_eq!(lacks(Wanted::Model), None);
    }
}
