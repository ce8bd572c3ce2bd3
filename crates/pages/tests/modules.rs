//! The pure modules of the pages, tested by Node.js.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{path::Path, process::Command};

/// Filters, the form and its address, the log, redaction, search, explanations, problems of the status page
/// (http_and_ops 59 to 62)
#[test]
fn the_modules_of_the_pages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5);
    let output = Command::new("node")
        .arg("--test")
        .args(files)
        .output()
        .expect("Node.js is installed by scripts/test");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("# fail 0") || told.contains("ℹ fail 0"), "{told}");
}
