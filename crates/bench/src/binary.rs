//! Which server is measured.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// The server binary under measurement.
pub(crate) fn server_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("REALTIME_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let path = own.parent().context("no parent directory")?.join("realtime");
    anyhow::ensure!(path.exists(), "{} is missing: build it with the same profile", path.display());
    Ok(path)
}
