//! Installs the server programs if the system has a package manager that we know.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use tokio::process::Command;

use crate::{error::Error, progress::Progress};

/// What a person can do if we cannot.
pub(crate) const HINT: &str = "apt-get install postgresql";

/// The file that tells Debian not to create and start a cluster of its own.
const CREATE_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/realtime.conf";

/// Installs PostgreSQL with `apt-get`.
pub(crate) async fn install(progress: &(dyn Fn(Progress) + Sync)) -> Result<(), Error> {
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(Error::NotFound { hint: HINT });
    }
    let root = nix::unistd::Uid::effective().is_root();
    if !root && !sudo_works().await {
        return Err(Error::NotFound { hint: "sudo apt-get install postgresql" });
    }
    progress(Progress::Installing);
    if root && !Path::new("/etc/postgresql-common").exists() {
        // Only where the packages are new: an existing installation keeps its settings.
        let file = Path::new(CREATE_MAIN_CLUSTER);
        let parent = file.parent().unwrap_or(file);
        let written = std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(file, "create_main_cluster = false\n"))
            .and_then(|()| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)));
        written.map_err(|error| Error::Install(error.to_string()))?;
    }
    apt_get(root, &["update"]).await?;
    apt_get(root, &["install", "--yes", "--no-install-recommends", "postgresql"]).await
}

async fn sudo_works() -> bool {
    let sudo = Command::new("sudo").args(["-n", "true"]).output().await;
    sudo.is_ok_and(|output| output.status.success())
}

async fn apt_get(root: bool, arguments: &[&str]) -> Result<(), Error> {
    let mut command = if root {
        Command::new("apt-get")
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", "apt-get"]);
        command
    };
    let output = command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output().await;
    let output = output.map_err(|error| Error::Install(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Install(said.lines().last().unwrap_or("apt-get failed").to_owned()))
}
