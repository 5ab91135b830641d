//! What the fuzzers have kept (`fuzz/corpus`), given to the readers again: each text reaches something that no other does.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../../../fuzz/src/lib.rs"]
pub mod readers;

/// Every text of a corpus, in the order of the files' names.
fn replay(corpus: &str, holds: fn(&str)) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(corpus);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 10, "{} is no corpus", directory.display());
    for file in files {
        // What is not text, the fuzzers do not give either.
        if let Ok(text) = String::from_utf8(fs::read(&file).unwrap()) {
            // Which one it is, if it fails.
            println!("{}", file.display());
            holds(&text);
        }
    }
}

#[test]
fn policies() {
    replay("policy", readers::policy);
}

#[test]
fn catalogs() {
    replay("catalog", readers::catalog);
}

#[test]
fn imports() {
    replay("import", readers::import);
}

#[test]
fn reports() {
    replay("report", readers::report);
}

#[test]
fn lockfiles() {
    replay("lock", readers::lock);
}

#[test]
fn records() {
    replay("record", readers::record);
}

#[test]
fn requests() {
    replay("request", readers::request);
}
