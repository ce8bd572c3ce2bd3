//! Programs that end with whoever started them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use realtime_localpg::Supervised;

/// A shell that says what it is told.
fn shell(log: &Path, script: &str) -> Supervised {
    let mut command = Supervised::command("/bin/sh".as_ref(), log, None);
    command.args(["-c", script]);
    Supervised::start(command).unwrap()
}

#[tokio::test]
async fn the_end_of_a_program_is_told_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let status = shell(&log, "echo said; echo and >&2; exit 7").wait().await.unwrap();
    assert_eq!(status.code(), Some(7));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "said\nand\n");
    let killed = shell(&log, "kill -KILL $$").wait().await.unwrap();
    assert_eq!(killed.code(), Some(128 + 9));
}
