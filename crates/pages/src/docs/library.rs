//! The files of the documentation, and their addresses.

include!(concat!(env!("OUT_DIR"), "/documents.rs"));

/// The file that lists all others.
pub(super) const INDEX: &str = "docs/README.md";

/// A file of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document {
    /// Its path in the repository.
    pub(super) path: &'static str,
    pub(super) text: &'static str,
}

impl Document {
    /// The document at an address below `/docs`, which may end like its file. The empty address is the index.
    #[must_use]
    pub fn at(address: &str) -> Option<Self> {
        let address = address.trim_end_matches('/');
        let address = address.strip_suffix(".md").unwrap_or(address);
        all().find(|document| document.address() == address)
    }

    /// The document of a file.
    pub(super) fn of(path: &str) -> Option<Self> {
        all().find(|document| document.path == path)
    }

    /// Its address below `/docs`, without a slash before it.
    #[must_use]
    pub fn address(self) -> &'static str {
        match self.path {
            INDEX => "",
            "README.md" => "about",
            "CHANGELOG.md" => "changelog",
            "CONTRIBUTING.md" => "contributing",
            "SECURITY.md" => "security",
            path => {
                let path = path.strip_prefix("docs/").unwrap_or(path);
                path.strip_suffix("/README.md").or_else(|| path.strip_suffix(".md")).unwrap_or(path)
            }
        }
    }

    /// Its address on a server.
    #[must_use]
    pub fn href(self) -> String {
        match self.address() {
            "" => "/docs".to_owned(),
            address => format!("/docs/{address}"),
        }
    }
}

/// All documents.
pub(super) fn all() -> impl Iterator<Item = Document> {
    PAGES.iter().map(|(path, text)| Document { path, text })
}

/// A picture, by its name.
#[must_use]
pub fn image(name: &str) -> Option<&'static [u8]> {
    IMAGES.iter().find(|(path, _)| path.strip_prefix("docs/images/") == Some(name)).map(|(_, bytes)| *bytes)
}
