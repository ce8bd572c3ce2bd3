//! Which operating system user the server runs as: PostgreSQL refuses to run as root.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use nix::unistd::{Gid, Uid, User};
use tokio::process::Command;

use crate::Error;

/// The user that owns the data directory and runs the programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(Option<(Uid, Gid)>);

impl Owner {
    /// Ourselves, or for root an unprivileged user.
    pub(crate) fn choose() -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
        user.map(|user| Self(Some((user.uid, user.gid)))).ok_or(Error::NoUser)
    }

    /// Makes a directory that only this user can read, and the way to it.
    pub(crate) fn make_dir(self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        self.give(dir)
    }

    /// Writes a file that only this user can read.
    pub(crate) fn write_private(self, path: &Path, text: &str) -> io::Result<()> {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        self.give(path)
    }

    /// Hands a file or directory over to this user.
    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        match self.0 {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw())),
            None => Ok(()),
        }
    }

    /// Lets a program run as this user, with nothing of ours in its environment that it does not need.
    pub(crate) fn run_as(self, command: &mut Command) {
        command.env_remove("PGDATA").env_remove("PGPORT").env_remove("PGHOST").env("LC_ALL", "C.UTF-8");
        command.current_dir("/");
        if let Some((uid, gid)) = self.0 {
            command.uid(uid.as_raw()).gid(gid.as_raw()).env("HOME", "/");
        }
    }
}
