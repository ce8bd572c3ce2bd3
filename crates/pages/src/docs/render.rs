//! Markdown as HTML: headings that can be linked to, links between pages, tables and programs that scroll by themselves.

use std::collections::HashMap;

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

use super::library::Document;
use crate::escape::escape;

/// A document as a part of a page.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// Its heading, as text.
    pub title: String,
    /// HTML.
    pub html: String,
}

/// The parts of a document. Our pages use tables beside plain Markdown.
pub(super) fn events(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// Anchors of the headings of a page, in their order.
#[derive(Debug, Default)]
pub(super) struct Anchors(HashMap<String, usize>);

impl Anchors {
    /// The anchor that GitHub gives a heading, so that links work there and here.
    pub(super) fn of(&mut self, heading: &str) -> String {
        let mut slug = String::with_capacity(heading.len());
        for c in heading.trim().chars().flat_map(char::to_lowercase) {
            match c {
                ' ' => slug.push('-'),
                c if c.is_alphanumeric() || matches!(c, '-' | '_') => slug.push(c),
                _ => {}
            }
        }
        let seen = self.0.entry(slug.clone()).or_default();
        *seen += 1;
        if *seen == 1 { slug } else { format!("{slug}-{}", *seen - 1) }
    }
}

/// The text of what is inside of a heading or a link.
pub(super) fn text_of(events: &[Event<'_>]) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Text(part) | Event::Code(part) => text.push_str(part),
            Event::SoftBreak | Event::HardBreak => text.push(' '),
            _ => {}
        }
    }
    text
}

/// A document as HTML.
#[must_use]
pub fn render(document: Document) -> Rendered {
    let found: Vec<Event<'_>> = events(document.text).collect();
    let mut anchors = Anchors::default();
    let mut title = String::new();
    let mut made = Vec::with_capacity(found.len() + 16);
    // Links to files that are no pages are left out; their text stays.
    let mut links = Vec::new();
    let mut tables = 0;
    for (at, event) in found.iter().enumerate() {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                let rest = found.get(at + 1..).unwrap_or_default();
                let end = rest.iter().position(|event| matches!(event, Event::End(TagEnd::Heading(_))));
                let text = text_of(rest.get(..end.unwrap_or_default()).unwrap_or_default());
                made.push(raw(format!("<{level} id=\"{}\">", escape(&anchors.of(&text)))));
                if title.is_empty() {
                    title = text;
                }
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                let href = href(document, dest_url);
                if let Some(href) = &href {
                    made.push(raw(format!("<a href=\"{}\"{}>", escape(href), referrer(href))));
                }
                links.push(href.is_some());
            }
            Event::End(TagEnd::Link) => {
                if links.pop().unwrap_or_default() {
                    made.push(raw("</a>".to_owned()));
                }
            }
            Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                let dest_url = CowStr::from(picture(dest_url));
                let (link_type, title, id) = (*link_type, title.clone(), id.clone());
                made.push(Event::Start(Tag::Image { link_type, dest_url, title, id }));
            }
            Event::Start(Tag::Table(_)) => {
                tables += 1;
                made.push(raw(format!(
                    "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table {tables}\">"
                )));
                made.push(event.clone());
            }
            Event::End(TagEnd::Table) => made.extend([event.clone(), raw("</div>".to_owned())]),
            Event::Start(Tag::CodeBlock(_)) => made.push(raw("<pre tabindex=\"0\"><code>".to_owned())),
            Event::End(TagEnd::CodeBlock) => made.push(raw("</code></pre>\n".to_owned())),
            Event::Html(text) | Event::InlineHtml(text) => {
                made.push(raw(text.replace(" src=\"images/", " src=\"/docs/images/")));
            }
            other => made.push(other.clone()),
        }
    }
    let mut rendered = String::with_capacity(document.text.len() * 2);
    html::push_html(&mut rendered, made.into_iter());
    // A corner above names of rows is no heading.
    Rendered { title, html: rendered.replace("<th></th>", "<td></td>") }
}

fn raw(html: String) -> Event<'static> {
    Event::InlineHtml(html.into())
}

/// Other sites are not told where somebody came from.
fn referrer(href: &str) -> &'static str {
    if href.starts_with("https:") || href.starts_with("http:") { " rel=\"noreferrer\"" } else { "" }
}

/// Where a picture is served.
fn picture(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    format!("/docs/images/{name}")
}

/// Where a link of a document leads on a server. `None`: to a file that is no page.
pub(super) fn href(document: Document, link: &str) -> Option<String> {
    if link.starts_with('#') || link.split_once(':').is_some_and(|(scheme, _)| !scheme.contains('/')) {
        return Some(link.to_owned());
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = Document::of(&resolve(document.path, file))?;
    let href = target.href();
    Some(anchor.map_or_else(|| href.clone(), |anchor| format!("{href}#{anchor}")))
}

/// The path of a file in the repository, from a link in another.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(path: &'static str, text: &'static str) -> Document {
        Document { path, text }
    }

    #[test]
    fn headings_have_the_anchors_of_github() {
        let mut anchors = Anchors::default();
        assert_eq!(anchors.of("One's own: `a_b`, and 2.0"), "ones-own-a_b-and-20");
        assert_eq!([anchors.of("Same"), anchors.of("Same")], ["same", "same-1"]);
    }

    #[test]
    fn links_lead_to_pages_and_others_are_text() {
        let page = document("docs/clients.md", "");
        let to = |link: &str| href(page, link);
        assert_eq!(to("quick-start.md#start").as_deref(), Some("/docs/quick-start#start"));
        assert_eq!(to("../README.md").as_deref(), Some("/docs/about"));
        assert_eq!(to("../examples/next-js/README.md").as_deref(), Some("/docs/examples/next-js"));
        assert_eq!(to("README.md").as_deref(), Some("/docs"));
        assert_eq!(to("#here").as_deref(), Some("#here"));
        assert_eq!(to("https://a.example/b").as_deref(), Some("https://a.example/b"));
        assert_eq!(to("../docker/cluster.yaml"), None);
        assert_eq!(to("../../../etc/passwd"), None);
    }

    #[test]
    fn what_is_wide_scrolls_and_what_is_written_is_escaped() {
        let text = "# A <b>\n\n| a |\n| - |\n| `<i>` |\n\n```js x.js\nif (a < b) {}\n```\n[f](../LICENSE) [g](clients.md)\n";
        let Rendered { title, html } = render(document("docs/clients.md", text));
        assert_eq!(title, "A ");
        assert!(
            html.contains("<div class=\"scroll\"")
                && html.contains("<pre tabindex=\"0\"><code>if (a &lt; b)"),
            "{html}"
        );
        assert!(
            html.contains("<code>&lt;i&gt;</code>") && html.contains("f <a href=\"/docs/clients\">g</a>"),
            "{html}"
        );
    }
}
