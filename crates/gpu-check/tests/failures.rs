//! A device that fails is told, and spoils no part but the one in which it did. Over the stand-in.

use serde_json::Value;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn a_part_that_fails_is_told_and_the_others_go_on() {
    let out = tempfile::tempdir().expect("a folder");
    let output = Command::new(format!("{ROOT}/scripts/with-standin"))
        .args([env!("CARGO_BIN_EXE_gpu-check"), "--tiny", "--only", "conformance/", "--out"])
        .arg(out.path())
        // The third launch of a process is an uncorrectable error of the device's memory, in the first process that has so many.
        .env("CUDA_STANDIN_ECC", "0:3")
        .env("CUDA_STANDIN_ONCE", out.path().join("once"))
        .output()
        .expect("the script can be started");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let report = std::fs::read_to_string(out.path().join("gpu-check.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let parts = report["parts"].as_array().expect("parts");
    let failures: Vec<&Value> = parts.iter().filter_map(|part| part.get("failed")).collect();
    let [failed] = failures[..] else { panic!("{report:#}") };
    assert!(parts.len() > 3 && failed.as_str().is_some_and(|text| text.contains("ECC")), "{report:#}");
    let table = std::fs::read_to_string(out.path().join("gpu-check.md")).expect("a table");
    assert!(table.contains("**FAILED**") && table.contains("these times mean nothing"), "{table}");
}
