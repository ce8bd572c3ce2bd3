//! The pages as a node serves them.

use crate::files::{TAG, etag};

/// What browsers let the pages do: run our own files, and talk to whatever host a person names in the Inspector.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self' http: https: ws: wss:; worker-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// Documentation of the clients and the protocol.
const DOCS: &str = "https://supabase.com/docs/guides/realtime";

/// Where the protocol and its clients are developed.
const GITHUB: &str = "https://github.com/supabase/realtime";

/// What the foot of a page says about the node that serves it.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Version of the server.
    pub version: &'a str,
    /// Short id of the node.
    pub node: &'a str,
    /// Where the node is.
    pub region: Option<&'a str>,
}

/// A finished page.
#[derive(Debug, Clone)]
pub struct Page {
    /// HTML.
    pub html: String,
    /// Entity tag, with quotes.
    pub etag: String,
}

/// The pages of a node.
#[derive(Debug, Clone)]
pub struct Site {
    /// `/`.
    pub inspector: Page,
    /// `/status`.
    pub status: Page,
}

impl Site {
    /// Makes the pages of a node.
    #[must_use]
    pub fn new(about: About<'_>) -> Self {
        Self {
            inspector: page(include_str!("../assets/inspector.html"), "inspector", about),
            status: page(include_str!("../assets/status.html"), "status", about),
        }
    }
}

fn page(template: &str, name: &str, about: About<'_>) -> Page {
    let link = format!("data-page=\"{name}\"");
    let html = template
        .replace("{{header}}", include_str!("../assets/parts/header.html"))
        .replace("{{footer}}", include_str!("../assets/parts/footer.html"))
        .replace(&link, &format!("{link} aria-current=\"page\""))
        .replace("{{docs}}", DOCS)
        .replace("{{github}}", GITHUB)
        .replace("{{assets}}", &format!("/assets/{}", *TAG))
        .replace("{{version}}", &escape(about.version))
        .replace("{{node}}", &escape(about.node))
        .replace("{{region}}", &escape(about.region.unwrap_or("no region")));
    Page { etag: etag(html.as_bytes()), html }
}

/// Text as HTML, also within quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::find;

    fn site() -> Site {
        Site::new(About { version: "1.2.3", node: "ab12", region: Some("<eu>") })
    }

    #[test]
    fn pages_are_filled_in() {
        let site = site();
        for page in [&site.inspector, &site.status] {
            assert!(!page.html.contains("{{"), "{}", page.html);
            assert!(page.html.contains("1.2.3") && page.html.contains("ab12"));
            assert!(page.html.contains("&lt;eu&gt;") && !page.html.contains("<eu>"));
            assert_eq!(page.html.matches("aria-current").count(), 1);
        }
        assert!(site.inspector.html.contains("<title>Inspector - Supabase Realtime</title>"));
        assert!(site.status.html.contains("Realtime Cluster Health"));
    }

    #[test]
    fn what_pages_refer_to_exists_and_nothing_is_inline() {
        let site = site();
        let prefix = format!("/assets/{}/", *TAG);
        for page in [&site.inspector, &site.status] {
            let referred: Vec<&str> = page.html.split(&prefix).skip(1).collect();
            assert!(referred.len() >= 4);
            for rest in referred {
                let path = rest.split('"').next().unwrap();
                assert!(find(path).is_some(), "{path}");
            }
            assert!(!page.html.contains("<style") && !page.html.contains("style=\""));
            assert!(page.html.split("<script").skip(1).all(|script| script.contains("src=\"")));
        }
    }
}
