//! The search: sections that contain all words, best first.

use std::sync::LazyLock;

use pulldown_cmark::{Event, Tag, TagEnd};

use super::{
    library::{Document, all},
    render,
};
use crate::escape::escape;

/// Longest query, in characters. What follows is not looked for.
pub const MAX_QUERY: usize = 100;

/// Words of a query that are looked for.
const MAX_WORDS: usize = 8;

/// Sections that are shown.
const SHOWN: usize = 30;

/// Characters of a section that are shown before and after the first word that was found.
const AROUND: (usize, usize) = (60, 180);

/// A part of a page, from a heading to the next.
#[derive(Debug)]
struct Section {
    page: String,
    heading: String,
    href: String,
    text: String,
    /// Page, heading and text in lower case: where words are looked for. Of the same length in bytes as the original only
    /// by chance, so places are looked for in `text` itself.
    page_lower: String,
    heading_lower: String,
    text_lower: String,
}

/// A section that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Title of the page.
    pub page: String,
    /// Heading of the section; equal to the title at the beginning of a page.
    pub heading: String,
    /// Address of the section.
    pub href: String,
    /// Some of its text as HTML, with marks around the words.
    pub excerpt: String,
}

static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(|| all().flat_map(sections).collect());

/// The sections of a page.
fn sections(document: Document) -> Vec<Section> {
    let events: Vec<Event<'_>> = render::events(document.text).collect();
    let mut anchors = render::Anchors::default();
    let mut found: Vec<Section> = Vec::new();
    let mut in_heading = false;
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Start(Tag::Heading { .. }) => {
                in_heading = true;
                let rest = events.get(at + 1..).unwrap_or_default();
                let end = rest.iter().position(|event| matches!(event, Event::End(TagEnd::Heading(_))));
                let heading = render::text_of(rest.get(..end.unwrap_or_default()).unwrap_or_default());
                let anchor = anchors.of(&heading);
                let first = found.first();
                let page = first.map_or_else(|| heading.clone(), |first| first.heading.clone());
                let href = match first {
                    None => document.href(),
                    Some(_) => format!("{}#{anchor}", document.href()),
                };
                found.push(Section {
                    page_lower: page.to_lowercase(),
                    heading_lower: heading.to_lowercase(),
                    page,
                    heading,
                    href,
                    text: String::new(),
                    text_lower: String::new(),
                });
            }
            Event::End(TagEnd::Heading(_)) => in_heading = false,
            event if !in_heading => {
                let Some(section) = found.last_mut() else { continue };
                match event {
                    Event::Text(text) | Event::Code(text) => section.text.push_str(text),
                    Event::SoftBreak | Event::HardBreak | Event::End(_)
                        if !section.text.ends_with([' ', '\n']) =>
                    {
                        section.text.push(' ');
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    for section in &mut found {
        section.text_lower = section.text.to_lowercase();
    }
    found
}

/// The words of a query, in lower case.
fn words(query: &str) -> Vec<String> {
    let query: String = query.chars().take(MAX_QUERY).collect();
    let mut words: Vec<String> =
        query.split_whitespace().map(str::to_lowercase).filter(|word| !word.is_empty()).collect();
    words.truncate(MAX_WORDS);
    words
}

/// Sections that contain all words of a query, best first, and how many there are in all.
#[must_use]
pub fn search(query: &str) -> (Vec<Hit>, usize) {
    let words = words(query);
    if words.is_empty() {
        return (Vec::new(), 0);
    }
    let mut scored: Vec<(usize, &Section)> =
        SECTIONS.iter().filter_map(|section| Some((score(section, &words)?, section))).collect();
    // Equal ones stay in the order of the pages.
    scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    let hits = scored.iter().take(SHOWN).map(|(_, section)| hit(section, &words)).collect();
    (hits, scored.len())
}

/// How well a section fits: words in headings count most. `None`: a word is missing.
fn score(section: &Section, words: &[String]) -> Option<usize> {
    let mut score = 0;
    for word in words {
        let in_heading = section.heading_lower.contains(word.as_str());
        let in_page = section.page_lower.contains(word.as_str());
        // More than a few say nothing more.
        let in_text = section.text_lower.matches(word.as_str()).take(5).count();
        if !in_heading && !in_page && in_text == 0 {
            return None;
        }
        score += in_text + if in_heading { 20 } else { 0 } + if in_page { 8 } else { 0 };
    }
    // Whoever writes a heading means its section.
    let phrase = words.join(" ");
    score += if section.heading_lower == phrase { 100 } else { 0 };
    Some(score)
}

fn hit(section: &Section, words: &[String]) -> Hit {
    Hit {
        page: section.page.clone(),
        heading: section.heading.clone(),
        href: section.href.clone(),
        excerpt: excerpt(&section.text, words),
    }
}

/// Some of a text around the first word, as HTML with marks.
fn excerpt(text: &str, words: &[String]) -> String {
    let text: Vec<char> = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().collect();
    let lower: Vec<char> = text.iter().map(|c| c.to_lowercase().next().unwrap_or(*c)).collect();
    let words: Vec<Vec<char>> = words.iter().map(|word| word.chars().collect()).collect();
    let length_at = |at: usize| {
        let rest = lower.get(at..).unwrap_or_default();
        words.iter().filter(|word| rest.starts_with(word)).map(Vec::len).max()
    };
    let first = (0..text.len()).find(|at| length_at(*at).is_some()).unwrap_or_default();
    let (from, to) = (first.saturating_sub(AROUND.0), (first + AROUND.1).min(text.len()));
    let mut html = String::from(if from > 0 { "…" } else { "" });
    let mut at = from;
    while at < to {
        let length = length_at(at);
        let end = (at + length.unwrap_or(1)).min(text.len());
        let part = escape(&text.get(at..end).unwrap_or_default().iter().collect::<String>());
        match length {
            Some(_) => html.push_str(&format!("<mark>{part}</mark>")),
            None => html.push_str(&part),
        }
        at = end;
    }
    if to < text.len() {
        html.push('…');
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_are_found_and_headings_come_first() {
        let (hits, all) = search("Live Rows");
        assert!(all >= hits.len() && hits.len() > 3);
        assert_eq!((&*hits[0].page, &*hits[0].href), ("Live rows", "/docs/live-rows"));
        let (hits, _) = search("SLOT_DURABLE");
        assert!(hits.iter().any(|hit| hit.excerpt.contains("<mark>SLOT_DURABLE</mark>")), "{hits:?}");
        let (hits, _) = search("publication wal_level");
        assert!(hits.iter().all(|hit| hit.href.starts_with("/docs")), "{hits:?}");
    }

    #[test]
    fn queries_are_bounded_and_say_nothing_as_html() {
        assert_eq!(search("").1 + search("  \n ").1 + search("qwertzuiopü").1, 0);
        assert!(words(&"a ".repeat(10_000)).len() <= MAX_WORDS);
        assert!(words(&"x".repeat(10_000))[0].len() <= MAX_QUERY);
        assert_eq!(excerpt("a <script> b", &["<script>".to_owned()]), "a <mark>&lt;script&gt;</mark> b");
        assert_eq!(excerpt("İstanbul", &["stan".to_owned()]), "İ<mark>stan</mark>bul");
        assert!(excerpt(&"é".repeat(1_000), &["q".to_owned()]).ends_with('…'));
    }
}
