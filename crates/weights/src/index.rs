//! `model.safetensors.index.json`: which file holds which tensor.

use crate::WeightsError;
use crate::layout::is_plain_name;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensor names with the names of their files: at least one, and each the plain name of a file beside the index.
pub(crate) fn parse(path: &Path, json: &[u8]) -> Result<BTreeMap<String, String>, WeightsError> {
    let index: Value =
        serde_json::from_slice(json).map_err(|reason| WeightsError::IndexJson { path: path.to_owned(), reason })?;
    let shape = |found| WeightsError::IndexShape { path: path.to_owned(), found };
    let map = match index.get("weight_map") {
        Some(Value::Object(map)) if map.is_empty() => return Err(shape("an empty one")),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(shape("another JSON value")),
        None => return Err(shape("none")),
    };
    let entries = map.iter().map(|(tensor, file)| match file.as_str() {
        Some(name) if is_plain_name(name) => Ok((tensor.clone(), name.to_owned())),
        _ => {
            let found = file.to_string();
            Err(WeightsError::IndexEntry { path: path.to_owned(), tensor: tensor.clone(), found })
        }
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "dir/model.safetensors.index.json";

    #[test]
    fn entries_are_read() {
        let json = br#"{"metadata":{"total_size":7},"weight_map":{"b":"2.safetensors","a":"1.safetensors"}}"#;
        let entries = parse(Path::new(PATH), json).unwrap();
        assert!(
            entries
                .iter()
                .map(|(tensor, file)| (&**tensor, &**file))
                .eq([("a", "1.safetensors"), ("b", "2.safetensors")])
        );
    }

    #[test]
    fn errors_name_the_index_and_the_tensor() {
        let mut cases = vec![
            ("{".to_owned(), "not valid JSON"),
            ("7".to_owned(), "found none"),
            ("{}".to_owned(), "found none"),
            (r#"{"weight_map":[]}"#.to_owned(), "found another JSON value"),
            (r#"{"weight_map":{}}"#.to_owned(), "found an empty one"),
            (r#"{"weight_map":{"w":7}}"#.to_owned(), "tensor `w`: expected the name of a file in the same directory"),
        ];
        for name in ["", ".", "..", "../x", "/etc/x", "sub/x", r"..\\x", r"x\u0000"] {
            cases.push((format!(r#"{{"weight_map":{{"w":"{name}"}}}}"#), "tensor `w`: expected the name of a file"));
        }
        for (json, expected) in cases {
            let text = parse(Path::new(PATH), json.as_bytes()).unwrap_err().to_string();
            assert!(text.contains(expected) && text.contains(PATH), "{json}: {text}");
        }
    }

    #[test]
    fn damaged_indexes_give_an_error_or_plain_names() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let whole = br#"{"metadata":{"total_size":7},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
        for round in 0..10_000 {
            let mut bytes = whole.to_vec();
            match round % 3 {
                0 => rng.fill(&mut bytes),
                1 => bytes.truncate(rng.usize(..bytes.len())),
                _ => {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = *rng.choice(b"0./\\{}[]\",:\xff").unwrap();
                }
            }
            for (_, file) in parse(Path::new(PATH), &bytes).into_iter().flatten() {
                assert_eq!(Path::new("dir").join(&file).parent(), Some(Path::new("dir")), "{file:?}");
            }
        }
    }
}
