//! The secrets of the development server: for tokens, and for its metadata database.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use rand::Rng as _;

use super::DevError;

/// A secret: the name of its file, and its length.
pub(super) struct Secret(&'static str, usize);

/// Signs tokens.
pub(super) const JWT: Secret = Secret("jwt-secret", 40);

/// Key of AES-256-GCM.
pub(super) const METADATA_KEY: Secret = Secret("metadata-key", 32);

/// A secret that is kept in `data_dir`, so that tokens stay valid over restarts. Made at the first start.
pub(super) fn load_or_make(data_dir: &Path, Secret(name, length): Secret) -> Result<String, DevError> {
    let path = data_dir.join(name);
    let failed = |error| DevError::DataDir { path: path.clone(), error };
    // PostgreSQL runs as another user below this directory, and must be able to pass through it.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(data_dir).map_err(failed)?;
    match fs::read_to_string(&path) {
        Ok(secret) if secret.len() == length => return Ok(secret),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let secret: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(length).map(char::from).collect();
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&path).and_then(|mut file| file.write_all(secret.as_bytes())).map_err(failed)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(&dir.path().join("new"), JWT).unwrap();
        assert_eq!(first.len(), 40);
        assert_eq!(load_or_make(&dir.path().join("new"), JWT).unwrap(), first);
        fs::write(dir.path().join("new/jwt-secret"), "cut").unwrap();
        assert_ne!(load_or_make(&dir.path().join("new"), JWT).unwrap(), first);
    }
}
