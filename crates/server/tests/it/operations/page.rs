//! `docs/operations.md` says what the code says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use realtime_server::{codes, operators::metrics::families};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text with what is between two marks replaced.
fn replaced(text: &str, mark: &str, table: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->\n"));
    let (before, rest) = text.split_once(&begin).with_context(|| begin.clone())?;
    let (_, after) = rest.split_once(&end).with_context(|| end.clone())?;
    Ok(format!("{before}{begin}\n{table}\n{end}{after}"))
}

/// The tables of the page are those of the code. `UPDATE_PAGES=1` writes them.
#[test]
fn the_page_is_up_to_date() -> Result<()> {
    let page = root().join("docs/operations.md");
    let text = fs::read_to_string(&page)?;
    let wanted = replaced(&text, "metrics", &families::table())?;
    let wanted = replaced(&wanted, "codes", &codes::table())?;
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&page, &wanted)?;
        return Ok(());
    }
    ensure!(text == wanted, "run: UPDATE_PAGES=1 cargo test -p realtime-server --test it page");
    Ok(())
}

/// Every code that the sources tell is explained, once, and in order.
#[test]
fn every_code_is_explained() -> Result<()> {
    let known: Vec<&str> = codes::CODES.iter().map(|code| code.name).collect();
    assert!(known.is_sorted() && known.iter().collect::<BTreeSet<_>>().len() == known.len(), "{known:?}");
    let mut told = BTreeSet::new();
    for folder in fs::read_dir(root().join("crates"))? {
        let folder = folder?.path();
        let product = !["bench", "testkit"].iter().any(|name| folder.ends_with(name));
        if product && folder.join("src").is_dir() {
            sources(&folder.join("src"), &mut told)?;
        }
    }
    assert!(
        told.contains("RlsPolicyError") && told.contains("TopicNameRequired") && told.len() > 40,
        "{told:?}"
    );
    let unknown: Vec<_> = told.iter().filter(|code| !known.contains(&code.as_str())).collect();
    ensure!(unknown.is_empty(), "add to codes.rs what these mean: {unknown:?}");
    Ok(())
}

fn sources(folder: &Path, told: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, told)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            told.extend(codes_of(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The codes that a source tells: values of fields `code`, results of functions `code`, the list of the protocol.
fn codes_of(source: &str) -> Vec<String> {
    let mut codes = Vec::new();
    let mut within = false;
    for line in source.lines() {
        let line = line.trim_end();
        if line == "#[cfg(test)]" {
            break;
        }
        // Ends with the line that closes the function or the list.
        within |= line.contains("fn code(") || line == "codes! {";
        within &= line != "    }" && line != "}";
        let direct = ["code = \"", "code: \"", "code, \""].iter().any(|field| line.contains(field));
        if !within && !direct {
            continue;
        }
        let literals = line.split('"').skip(1).step_by(2);
        codes.extend(literals.filter(|literal| is_code(literal)).map(str::to_owned));
    }
    codes
}

/// Whether a text looks like a code: words in one, each with a capital.
fn is_code(text: &str) -> bool {
    let capitals = text.chars().filter(char::is_ascii_uppercase).count();
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphabetic())
        && (2..text.len()).contains(&capitals)
        || matches!(text, "Unauthorized")
}
