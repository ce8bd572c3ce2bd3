//! The metrics of several nodes as one text: each family once, with the samples of all nodes (http_and_ops 3).
//!
//! A text is cut at the lines that begin a family. What is in between is passed on unchanged.

use std::collections::HashMap;

use bytes::Bytes;

/// The beginning of a family in a text.
const BEGIN: &[u8] = b"# HELP ";

/// A family as one text has it.
struct Block {
    /// Its help and its type, two lines.
    head: Bytes,
    /// Its samples.
    samples: Bytes,
}

/// A family of all texts.
struct Merged {
    head: Bytes,
    samples: Vec<Bytes>,
}

/// Merges texts. Returns parts in the order in which they are to be sent. If the type of a family differs between
/// releases, the type in the first text counts, and the samples of texts with another type are left out.
#[must_use]
pub fn merge(texts: &[Bytes]) -> Vec<Bytes> {
    if let [text] = texts {
        return vec![text.clone()];
    }
    let mut families: Vec<Merged> = Vec::new();
    let mut places: HashMap<Bytes, usize> = HashMap::new();
    for block in texts.iter().flat_map(blocks) {
        let Some(kind) = kind(&block.head) else { continue };
        match places.get(&name(&block.head)).and_then(|place| families.get_mut(*place)) {
            Some(family) if self::kind(&family.head).as_ref() == Some(&kind) => {
                family.samples.push(block.samples)
            }
            Some(_) => {}
            None => {
                places.insert(name(&block.head), families.len());
                families.push(Merged { head: block.head, samples: vec![block.samples] });
            }
        }
    }
    let parts = |family: Merged| std::iter::once(family.head).chain(family.samples);
    families.into_iter().flat_map(parts).filter(|part| !part.is_empty()).collect()
}

/// The families of a text.
fn blocks(text: &Bytes) -> Vec<Block> {
    let mut begins = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        if rest.starts_with(BEGIN) {
            begins.push(at);
        }
        at += rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
    }
    let ends = begins.iter().skip(1).copied().chain([text.len()]);
    let block = |(begin, end)| {
        let block = text.slice(begin..end);
        let help = line(&block)?;
        let kind = line(&block.slice(help..))?;
        Some(Block { head: block.slice(..help + kind), samples: block.slice(help + kind..) })
    };
    begins.iter().copied().zip(ends).filter_map(block).collect()
}

/// Length of the first line, including its line break. `None` if there is no line break.
fn line(text: &[u8]) -> Option<usize> {
    text.iter().position(|byte| *byte == b'\n').map(|end| end + 1)
}

/// The name of a family.
fn name(head: &Bytes) -> Bytes {
    let rest = head.get(BEGIN.len()..).unwrap_or_default();
    let len = rest.iter().position(|byte| byte.is_ascii_whitespace()).unwrap_or(rest.len());
    head.slice(BEGIN.len()..BEGIN.len() + len)
}

/// The line with the type of a family.
fn kind(head: &Bytes) -> Option<Bytes> {
    let kind = head.slice(line(head)?..);
    kind.starts_with(b"# TYPE ").then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(texts: &[&'static str]) -> String {
        let texts: Vec<Bytes> = texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        String::from_utf8(merge(&texts).concat()).unwrap()
    }

    const A: &str = "# HELP a x\n# TYPE a counter\na{n=\"1\"} 1\n# HELP c z\n# TYPE c gauge\nc{n=\"1\"} 3\n";
    const B: &str = "# HELP a x\n# TYPE a counter\na{n=\"2\"} 1\na{n=\"2\",m=\"# HELP \"} 2\n# HELP b y\n# TYPE b gauge\nb{n=\"2\"} 2\n";

    #[test]
    fn each_family_once_with_all_samples() {
        assert_eq!(
            merged(&[A, B]),
            "# HELP a x\n# TYPE a counter\na{n=\"1\"} 1\na{n=\"2\"} 1\na{n=\"2\",m=\"# HELP \"} 2\n\
             # HELP c z\n# TYPE c gauge\nc{n=\"1\"} 3\n# HELP b y\n# TYPE b gauge\nb{n=\"2\"} 2\n"
        );
        assert_eq!(merged(&[A]), A);
        assert_eq!(merged(&[]), "");
        assert_eq!(merged(&["", A, ""]), A);
    }

    #[test]
    fn a_family_of_another_type_is_left_out_and_another_help_is_not() {
        let other =
            "# HELP a w\n# TYPE a counter\na{n=\"3\"} 1\n# HELP c z\n# TYPE c counter\nc{n=\"3\"} 3\n";
        assert_eq!(
            merged(&[A, other]),
            "# HELP a x\n# TYPE a counter\na{n=\"1\"} 1\na{n=\"3\"} 1\n# HELP c z\n# TYPE c gauge\nc{n=\"1\"} 3\n"
        );
    }

    #[test]
    fn what_is_no_family_is_left_out() {
        assert_eq!(merged(&["x 1\n", A, "# HELP d\n", "# HELP e x\ne 1\n", "# HELP f x"]), A);
    }
}
