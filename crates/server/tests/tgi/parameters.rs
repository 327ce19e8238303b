//! docs/parameters.md, the public service and the code have the same parameters.

use server::dialects::tgi::Parameters;
use std::collections::BTreeSet;
use std::path::Path;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
}

/// The fields of [`Parameters`], as its derived `Debug` spells them.
fn of_the_code() -> BTreeSet<String> {
    let text = format!("{:?}", Parameters::default());
    let fields = text.split([' ', ',']).filter_map(|word| word.strip_suffix(':'));
    fields.map(str::to_owned).collect()
}

#[test]
fn the_table_has_every_parameter() {
    let documented = file("docs/parameters.md");
    let table = documented.split("## Parameters").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rows: BTreeSet<String> = rows.map(str::to_owned).collect();
    assert!(rows.len() > 15);
    assert_eq!(rows, of_the_code());
}

#[test]
fn the_service_has_every_parameter() {
    let service = file("proto/peregrine/v1/generation.proto");
    let message = service.split("message Parameters {").nth(1).unwrap().split("\n}").next().unwrap();
    let fields = message.lines().filter_map(|line| line.split(" = ").next()?.split(' ').next_back());
    let of_the_service: BTreeSet<String> = fields.map(str::to_owned).collect();
    // A grammar is one of two fields.
    for name in of_the_code().iter().filter(|name| *name != "grammar") {
        assert!(of_the_service.contains(name), "{name} is not in {of_the_service:?}");
    }
}

/// Messages whose only variable parts are numbers stand in the document as they are said.
#[test]
fn the_document_has_the_messages() {
    let documented = file("docs/parameters.md").replace('\n', " ");
    let source = file("crates/server/src/dialects/tgi/error.rs");
    let table = source.split("pub fn message(").nth(1).unwrap();
    let messages: Vec<&str> = table.split('"').skip(1).step_by(2).filter(|text| text.contains('`')).collect();
    assert!(messages.len() >= 12, "{messages:?}");
    for message in messages {
        // What is before the first number is said alike.
        let fixed = message.split('{').next().unwrap();
        assert!(documented.contains(fixed), "{message}");
    }
}
