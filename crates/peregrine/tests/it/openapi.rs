//! The OpenAPI document: of all routes, and with a page that needs nothing from elsewhere.

use crate::support::{HttpAnswer, Server};
use serde_json::Value;
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_document_has_every_route() {
    let server = Server::ready(["--backend", "instant", "--tensor-parallel", "1"]).await;
    let document: Value = serde_json::from_str(&server.get("/openapi.json").await.body).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("methods").keys().map(|method| method.to_uppercase()) {
            let concrete = path.replace("{name}", "a").replace("{id}", "no-such-model");
            let answer = server.ask(&method, &concrete, "7").await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(answer.status != 404 || path.contains("{id}"), "{method} {path}: {answer:?}");
            of_a_documented_type(&answer, &item[method.to_lowercase()], &format!("{method} {path}"));
            documented.insert(format!("{method} {path}").replace("{id}", "ID").replace("{name}", "NAME"));
        }
    }
    // What there is not says what there is.
    let error: Value = serde_json::from_str(&server.get("/no/such/route").await.body).expect("JSON");
    let list = error["error"].as_str().expect("a text").split("there are ").nth(1).expect("the list");
    for route in list.split(", ") {
        let (methods, path) = route.rsplit_once(' ').expect("methods and a path");
        let path = path.strip_suffix('.').unwrap_or(path);
        for method in methods.split(" and ").filter(|_| !path.starts_with("/docs") && path != "/openapi.json") {
            assert!(documented.contains(&format!("{method} {path}")), "{method} {path} is not documented");
        }
    }
    references(&document, &document);
    server.stop().await;
}

/// Where the document says which types an answer may have, it has one of them.
fn of_a_documented_type(answer: &HttpAnswer, operation: &Value, route: &str) {
    if let Some(types) = operation["responses"][answer.status.to_string()]["content"].as_object() {
        let given = answer.head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or("no type");
        assert!(types.keys().any(|documented| given.starts_with(documented)), "{route} has {given}: {answer:?}");
    }
}

/// Every reference in the document leads somewhere.
fn references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = to.strip_prefix('#').expect("within the document");
                assert!(document.pointer(pointer).is_some(), "{to} leads nowhere");
            }
            fields.values().for_each(|field| references(document, field));
        }
        Value::Array(items) => items.iter().for_each(|item| references(document, item)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = Server::ready(["--backend", "instant", "--tensor-parallel", "1"]).await;
    let page = server.get("/docs/").await.body;
    let links: Vec<&str> = page
        .split([' ', '>'])
        .filter_map(|word| word.split_once("src=\"").or(word.split_once("href=\"")))
        .map(|(_, rest)| rest.trim_end_matches('"'))
        .collect();
    assert!(links.len() >= 4, "{page}");
    for link in links {
        let file = link.strip_prefix("./").unwrap_or(link);
        assert!(!file.contains(':') && !file.starts_with('/'), "{link} is elsewhere");
        if !file.ends_with(".png") {
            assert_eq!(server.get(&format!("/docs/{file}")).await.status, 200, "{file}");
        }
    }
    assert!(server.get("/docs/swagger-initializer.js").await.body.contains("/api-doc/openapi.json"));
    server.stop().await;
}
