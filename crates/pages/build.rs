//! Lists the documentation of the repository, so that all of it becomes part of the binary.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

/// What belongs to the documentation beside the folder `docs`.
const FURTHER: [&str; 9] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "clients/dialogues/README.md",
    "clients/tanstack-db/README.md",
    "examples/next-js/README.md",
    "examples/node-js/README.md",
    "examples/shared-list/README.md",
];

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut pages = below(&root, "docs", "md")?;
    pages.extend(FURTHER.iter().map(|path| (*path).to_owned()));
    let mut list = String::new();
    constant(&mut list, "PAGES", "&str", "include_str", &pages);
    let mut images = below(&root, "docs/images", "png")?;
    images.extend(below(&root, "docs/images", "svg")?);
    constant(&mut list, "IMAGES", "&[u8]", "include_bytes", &images);
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| io::Error::other("no OUT_DIR"))?;
    fs::write(out.join("documents.rs"), list)
}

/// The files of a folder with an extension, in order, as paths from the root.
fn below(root: &Path, folder: &str, extension: &str) -> io::Result<Vec<String>> {
    println!("cargo::rerun-if-changed={}", root.join(folder).display());
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder))? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|known| known == extension) {
            found.push(format!("{folder}/{}", name.to_string_lossy()));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a list of files. It names no folder of this machine, so that all machines build the same.
fn constant(list: &mut String, name: &str, kind: &str, macro_name: &str, paths: &[String]) {
    let _ = writeln!(list, "pub(super) const {name}: &[(&str, {kind})] = &[");
    for path in paths {
        let place = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/../../{path}\")");
        let _ = writeln!(list, "    ({path:?}, {macro_name}!({place})),");
    }
    list.push_str("];\n");
}
