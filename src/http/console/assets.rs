//! The files of the console, which are part of the program.
//!
//! Owns their paths and content types. They are served as they stand in this folder: there is no
//! build step, and nothing comes from another host.

/// A file.
#[derive(Debug)]
pub(super) struct Asset {
    path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: &'static str,
    /// Whether it belongs to the page `/chat`.
    pub(super) is_chat: bool,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const fn asset(path: &'static str, content_type: &'static str, text: &'static str) -> Asset {
    Asset {
        path,
        content_type,
        text,
        is_chat: false,
    }
}

#[cfg(feature = "demo")]
const fn of_chat(path: &'static str, content_type: &'static str, text: &'static str) -> Asset {
    Asset {
        is_chat: true,
        ..asset(path, content_type, text)
    }
}

static ASSETS: &[Asset] = &[
    asset("/", HTML, include_str!("index.html")),
    asset("/console.css", CSS, include_str!("console.css")),
    asset("/console.js", SCRIPT, include_str!("console.js")),
    asset("/figures.js", SCRIPT, include_str!("figures.js")),
    asset("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    #[cfg(feature = "demo")]
    of_chat("/chat", HTML, include_str!("chat.html")),
    #[cfg(feature = "demo")]
    of_chat("/chat.css", CSS, include_str!("chat.css")),
    #[cfg(feature = "demo")]
    of_chat("/chat.js", SCRIPT, include_str!("chat.js")),
    #[cfg(feature = "demo")]
    of_chat(
        "/chat21-client.js",
        SCRIPT,
        include_str!("chat21-client.js"),
    ),
];

/// The file at a path.
pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_together_are_small() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(bytes <= 60 * 1024, "{bytes} bytes");
    }
}
