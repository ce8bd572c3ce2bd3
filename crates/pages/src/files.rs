//! The files that the pages consist of.

use std::{fmt::Write as _, sync::LazyLock};

use aws_lc_rs::digest::{Context, SHA256};

/// A file of the pages.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// Path below the folder of the files.
    pub path: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

macro_rules! files {
    ($($path:literal),+ $(,)?) => {
        /// All files that browsers may ask for.
        pub const FILES: &[File] =
            &[$(File { path: $path, bytes: include_bytes!(concat!("../assets/", $path)) }),+];
    };
}

files![
    "css/dashboard.css",
    "css/docs.css",
    "css/inspector.css",
    "css/site.css",
    "css/status.css",
    "css/swagger.css",
    "favicon.svg",
    "js/appearance.js",
    "js/connection.js",
    "js/dashboard.js",
    "js/describe.js",
    "js/docs.js",
    "js/dom.js",
    "js/event-stream.js",
    "js/explain.js",
    "js/filter-dialog.js",
    "js/filters.js",
    "js/form.js",
    "js/inspector.js",
    "js/journal.js",
    "js/jwt.js",
    "js/live-rows.js",
    "js/live-view.js",
    "js/log-view.js",
    "js/notices.js",
    "js/problems.js",
    "js/redact.js",
    "js/saved.js",
    "js/search.js",
    "js/status.js",
    "js/stream.js",
    "js/theme.js",
    "js/user.js",
    "js/why-dialog.js",
    "js/why.js",
    "robots.txt",
    "vendor/LICENSES.txt",
    "vendor/realtime-js.js",
    "worker.js",
];

/// Changes whenever a file does: part of the files' addresses, so that browsers may keep what they have for ever.
pub static TAG: LazyLock<String> = LazyLock::new(|| {
    let mut all = Context::new(&SHA256);
    for file in FILES {
        all.update(file.path.as_bytes());
        all.update(&file.bytes.len().to_le_bytes());
        all.update(file.bytes);
    }
    hex(&all.finish().as_ref()[..6])
});

/// The file at a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// Its media type, as the header `content-type` has it.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        match self.path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        }
    }

    /// Its entity tag, with quotes.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.bytes)
    }
}

/// An entity tag of bytes, with quotes.
#[must_use]
pub fn etag(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    format!("\"{}\"", hex(&context.finish().as_ref()[..12]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn below(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, root, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_file_is_part_of_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let mut found = Vec::new();
        below(&root, &root, &mut found);
        found.retain(|path| !path.ends_with(".html"));
        found.sort();
        assert_eq!(found, FILES.iter().map(|file| file.path).collect::<Vec<_>>());
    }

    #[test]
    fn types_and_tags() {
        assert_eq!(find("js/status.js").unwrap().media_type(), "text/javascript; charset=utf-8");
        assert_eq!(find("robots.txt").unwrap().media_type(), "text/plain; charset=utf-8");
        assert!(find("js/../robots.txt").is_none() && find("").is_none());
        assert_eq!(TAG.len(), 12);
        assert_ne!(etag(b"a"), etag(b"b"));
    }
}
