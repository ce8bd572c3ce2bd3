//! `docs/operations.md` says what the code says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use realtime_codes::ErrorCode;
use realtime_server::operators::metrics::families;

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
    let wanted = replaced(&wanted, "codes", &realtime_codes::markdown())?;
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&page, &wanted)?;
        return Ok(());
    }
    ensure!(text == wanted, "run: UPDATE_PAGES=1 cargo test --workspace --test it page");
    Ok(())
}

/// The codes of `docs/doctor.md` are those of the code. `UPDATE_PAGES=1` writes them.
#[test]
fn the_page_of_the_doctor_is_up_to_date() -> Result<()> {
    let page = root().join("docs/doctor.md");
    let text = fs::read_to_string(&page)?;
    let wanted = replaced(&text, "doctor", &realtime_doctor::markdown())?;
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&page, &wanted)?;
        return Ok(());
    }
    ensure!(text == wanted, "run: UPDATE_PAGES=1 cargo test --workspace --test it page");
    Ok(())
}

/// Every code that the sources tell is explained, once, and in order.
#[test]
fn every_code_is_explained() -> Result<()> {
    let known = known();
    assert!(known.is_sorted() && known.iter().collect::<BTreeSet<_>>().len() == known.len(), "{known:?}");
    let sources = sources_without(&["bench", "codes", "testkit"])?;
    let told: BTreeSet<String> = sources.split(END_OF_FILE).flat_map(codes_of).collect();
    assert!(
        told.contains("RlsPolicyError") && told.contains("TopicNameRequired") && told.len() > 40,
        "{told:?}"
    );
    let unknown: Vec<_> = told.iter().filter(|code| !known.contains(&code.as_str())).collect();
    ensure!(unknown.is_empty(), "add to crates/codes what these mean: {unknown:?}");
    let untold: Vec<_> = known.iter().filter(|code| !sources.contains(**code)).collect();
    ensure!(untold.is_empty(), "nothing tells these any more: {untold:?}");
    Ok(())
}

/// A code is written once, in crate `codes`: everything else names the variant.
#[test]
fn no_code_is_spelled_twice() -> Result<()> {
    let known = known();
    // The last two have types with a code as text.
    let sources = sources_without(&["bench", "codes", "testkit", "changes", "postgres"])?;
    let spelled: Vec<_> = sources
        .split(END_OF_FILE)
        .flat_map(|source| source.lines().take_while(|line| *line != "#[cfg(test)]"))
        .filter(|line| {
            // `Unauthorized` is a text of HTTP, too.
            let codes = known.iter().filter(|code| **code != "Unauthorized");
            codes.into_iter().any(|code| line.contains(&format!("\"{code}\"")))
        })
        .collect();
    ensure!(spelled.is_empty(), "write ErrorCode::… in place of: {spelled:#?}");
    Ok(())
}

fn known() -> Vec<&'static str> {
    ErrorCode::ALL.iter().map(|code| code.as_str()).collect()
}

/// The sources of all crates but these.
fn sources_without(others: &[&str]) -> Result<String> {
    let mut sources = String::new();
    for folder in fs::read_dir(root().join("crates"))? {
        let folder = folder?.path();
        let is_other = others.iter().any(|name| folder.ends_with(name));
        if !is_other && folder.join("src").is_dir() {
            collect(&folder.join("src"), &mut sources)?;
        }
    }
    Ok(sources)
}

/// Stands between two files.
const END_OF_FILE: char = '\0';

/// Appends all sources of a folder, without its tests.
fn collect(folder: &Path, sources: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            sources.push_str(&fs::read_to_string(&path)?);
            sources.push(END_OF_FILE);
        }
    }
    Ok(())
}

/// The codes that a source tells: variants of `ErrorCode`, values of fields `code`, results of functions `code`.
fn codes_of(source: &str) -> Vec<String> {
    let mut codes = Vec::new();
    let mut within = false;
    for line in source.lines() {
        let line = line.trim_end();
        if line == "#[cfg(test)]" {
            break;
        }
        codes.extend(line.split("ErrorCode::").skip(1).map(variant).filter(|name| is_code(name)));
        // Ends with the line that closes the function.
        within |= line.contains("fn code(");
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

/// The name that a text begins with.
fn variant(text: &str) -> String {
    text.chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// Whether a text looks like a code: words in one, each with a capital.
fn is_code(text: &str) -> bool {
    let capitals = text.chars().filter(char::is_ascii_uppercase).count();
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphabetic())
        && (2..text.len()).contains(&capitals)
        || matches!(text, "Unauthorized")
}
