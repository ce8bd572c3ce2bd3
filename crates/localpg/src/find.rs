//! Finds the server programs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::Error;

/// Oldest version that the server works with.
const OLDEST: u32 = 14;

/// The folder of `initdb` and `postgres`: the given one, else one on the PATH, else where distributions put
/// them, newest version first. `None` if there is none.
pub(crate) fn bin_dir(given: Option<&Path>) -> Result<Option<PathBuf>, Error> {
    let found = match given {
        Some(dir) if has_programs(dir) => Some(dir.to_owned()),
        Some(dir) => return Err(Error::NoPrograms(dir.to_owned())),
        None => on_path().or_else(installed),
    };
    if let Some(dir) = &found {
        check_version(dir)?;
    }
    Ok(found)
}

fn has_programs(dir: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| dir.join(program).is_file())
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dir = std::env::split_paths(&path).find(|dir| has_programs(dir))?;
    // Follows links: initdb looks for the other programs beside itself.
    dir.join("initdb").canonicalize().ok()?.parent().map(Path::to_owned)
}

fn installed() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/usr", "pgsql-"), ("/opt/homebrew/opt", "postgresql@")]
    {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            let dir = entry.path().join("bin");
            if let Some(version) = version
                && has_programs(&dir)
            {
                found.push((version, dir));
            }
        }
    }
    found.into_iter().max().map(|(_, dir)| dir)
}

fn check_version(dir: &Path) -> Result<(), Error> {
    let output = Command::new(dir.join("postgres")).arg("--version").output();
    let output = output.map_err(|error| Error::Program { program: "postgres", detail: error.to_string() })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match major(&text) {
        Some(version) if version < OLDEST => Err(Error::TooOld { found: text.trim().to_owned() }),
        _ => Ok(()),
    }
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian …)` or `… 18beta1`.
fn major(text: &str) -> Option<u32> {
    let number = text.split_once(") ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("psql"), None);
    }

    #[test]
    fn a_named_folder_must_hold_the_programs() {
        let error = bin_dir(Some(Path::new("/nowhere"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nowhere does not hold PostgreSQL's server programs (initdb, postgres)"
        );
    }
}
